"""Requests to llama.cpp's server, and its answers, in our words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llamune.engine.options import Conversation, GenerateOptions, Piece, TokenLogProbability

__all__ = ["PieceReader", "chat_request", "completion_request", "joined", "log_probabilities"]

SAME_NAME = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


def sampling(options: GenerateOptions) -> dict[str, Any]:
    """Return the part of a request that both kinds share."""
    request: dict[str, Any] = {
        name: value for name in SAME_NAME if (value := getattr(options, name)) is not None
    }
    request |= {
        "max_tokens": options.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.stop:
        request["stop"] = list(options.stop)
    return request


def completion_request(prompt: str | Sequence[int], options: GenerateOptions) -> dict[str, Any]:
    """Return the body of a `/v1/completions` request."""
    text_or_ids = prompt if isinstance(prompt, str) else list(prompt)
    request = sampling(options) | {"prompt": text_or_ids}
    if options.n_log_probabilities:
        request["logprobs"] = options.n_log_probabilities
    if options.json_schema is not None:
        request["json_schema"] = dict(options.json_schema)
    return request


def chat_request(asked: Conversation) -> dict[str, Any]:
    """Return the body of a `/v1/chat/completions` request."""
    options = asked.options
    request = sampling(options) | {"messages": [dict(message) for message in asked.messages]}
    if options.n_log_probabilities:
        request |= {"logprobs": True, "top_logprobs": options.n_log_probabilities}
    if options.json_schema is not None:
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": dict(options.json_schema)},
        }
    if asked.tools:
        request["tools"] = [dict(tool) for tool in asked.tools]
        if asked.tool_choice is not None:
            request["tool_choice"] = openai_choice(asked.tool_choice)
    return request


def openai_choice(choice: str) -> str | dict[str, Any]:
    """Return a tool choice in OpenAI's form."""
    if choice in ("none", "auto", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


class PieceReader:
    """Makes pieces of chunks; the one that ends the answer waits for the counts after it."""

    def __init__(self) -> None:
        self._ended: Piece | None = None

    def read(self, chunk: Mapping[str, Any]) -> Piece | None:
        """Return a chunk as a piece; None for one that waits."""
        piece = piece_of(chunk)
        if self._ended is not None:
            piece = replace(self._ended, **counts(piece))
        if piece.finish_reason is not None and piece.n_answer_tokens is None:
            self._ended = piece
            return None
        self._ended = None
        return piece

    def rest(self) -> Piece | None:
        """Return the last piece if its counts never came."""
        return self._ended


def joined(chunks: Iterable[Mapping[str, Any]]) -> Iterator[Piece]:
    """Yield chunks as pieces."""
    reader = PieceReader()
    for chunk in chunks:
        if (piece := reader.read(chunk)) is not None:
            yield piece
    if (last := reader.rest()) is not None:
        yield last


def piece_of(chunk: Mapping[str, Any]) -> Piece:
    """Return one chunk of a streamed answer, of either kind, as a piece."""
    choice: Mapping[str, Any] = (chunk.get("choices") or [{}])[0]
    delta: Mapping[str, Any] = choice.get("delta") or {}
    usage: Mapping[str, Any] = chunk.get("usage") or {}
    timings: Mapping[str, Any] = chunk.get("timings") or {}
    return Piece(
        text=choice.get("text") or delta.get("content") or "",
        thinking=delta.get("reasoning_content") or "",
        tool_calls=tuple(delta.get("tool_calls") or ()),
        log_probabilities=log_probabilities(choice.get("logprobs")),
        finish_reason=choice.get("finish_reason"),
        n_prompt_tokens=usage.get("prompt_tokens"),
        n_answer_tokens=usage.get("completion_tokens"),
        prompt_seconds=seconds(timings.get("prompt_ms")),
        answer_seconds=seconds(timings.get("predicted_ms")),
    )


def counts(piece: Piece) -> dict[str, Any]:
    """Return the figures of a piece, without its text."""
    return {
        "n_prompt_tokens": piece.n_prompt_tokens,
        "n_answer_tokens": piece.n_answer_tokens,
        "prompt_seconds": piece.prompt_seconds,
        "answer_seconds": piece.answer_seconds,
    }


def log_probabilities(found: Mapping[str, Any] | None) -> tuple[TokenLogProbability, ...]:
    """Return the log-probabilities that came with a chunk."""
    return tuple(
        TokenLogProbability(
            token=entry["token"],
            log_probability=entry["logprob"],
            alternatives=tuple(
                (other["token"], other["logprob"]) for other in entry.get("top_logprobs") or ()
            ),
        )
        for entry in (found or {}).get("content") or ()
    )


def seconds(milliseconds: float | None) -> float | None:
    """Return milliseconds as seconds, where there are any."""
    return None if milliseconds is None else milliseconds / 1000
