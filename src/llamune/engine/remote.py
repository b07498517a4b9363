"""Models that run elsewhere: an Ollama server, or any endpoint that speaks OpenAI's API."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llamune.engine.base import Engine, Messages, Scales
from llamune.engine.embedded import joined
from llamune.engine.errors import EngineError
from llamune.engine.options import Embeddings, GenerateOptions, Piece
from llamune.engine.pieces import chat_request, completion_request
from llamune.errors import UnsupportedError

if TYPE_CHECKING:
    import httpx

__all__ = ["OllamaEngine", "OpenAiEngine", "open_remote"]

SECONDS = 600
OLLAMA = "http://127.0.0.1:11434"
KEY_VARIABLE = "OPENAI_API_KEY"
NANOSECONDS = 1e9
OLLAMA_OPTIONS = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "repeat_last_n": "repeat_last_n",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}


def open_remote(where: str, name: str) -> Engine:
    """Return an engine that asks a server.

    Args:
        where: `ollama` (at `$OLLAMA_HOST`), or the URL of an OpenAI-compatible endpoint.
        name: what the server calls the model.

    Raises:
        EngineError: `where` is neither.
    """
    if where == "ollama":
        return OllamaEngine(name, ollama_address())
    if where.startswith(("http://", "https://")):
        return OpenAiEngine(name, where)
    raise EngineError(
        f"engine {where!r} is not known",
        hint="leave it out, or say ollama, or the URL of an OpenAI-compatible endpoint",
    )


def ollama_address() -> str:
    """Return where Ollama listens, by `$OLLAMA_HOST` as Ollama itself reads it."""
    host = os.environ.get("OLLAMA_HOST", "").strip()
    if not host:
        return OLLAMA
    if "://" not in host:
        host = f"http://{host}"
    host = host.rstrip("/").replace("://0.0.0.0", "://127.0.0.1")
    return host if ":" in host.partition("://")[2] else f"{host}:11434"


class RemoteEngine(Engine):
    """A model on a server.

    Args:
        name: what the server calls the model.
        address: URL of the server.
        headers: what every request carries.
    """

    def __init__(self, name: str, address: str, headers: Mapping[str, str]) -> None:
        import httpx

        self._name = name
        self._address = address.rstrip("/")
        self._client = httpx.Client(headers=dict(headers), timeout=SECONDS)

    @property
    def name(self) -> str:
        return self._name

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _asked(self, path: str, body: Mapping[str, Any]) -> Iterator[httpx.Response]:
        """Send a request and yield its answer as it begins.

        Raises:
            EngineError: the server cannot be reached, or refuses.
        """
        import httpx

        url = f"{self._address}{path}"
        try:
            with self._client.stream("POST", url, json=body) as response:
                if response.is_error:
                    response.read()
                    raise EngineError(f"{url}: {response.status_code}: {words_of(response)}")
                yield response
        except httpx.HTTPError as error:
            raise EngineError(
                f"{url}: {error or type(error).__name__}", hint="is the server running?"
            ) from error

    def _refuse_scales(self, scales: Scales | None) -> None:
        if scales:
            raise UnsupportedError(
                f"{self.name}: adapters cannot be switched on a remote engine",
                hint="name the model that has the adapter",
            )


def words_of(response: httpx.Response) -> str:
    """Return what a server says went wrong."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return response.text[:200].strip() or response.reason_phrase
    return str(error.get("message", error) if isinstance(error, Mapping) else error)


class OpenAiEngine(RemoteEngine):
    """A model behind OpenAI's API; `$OPENAI_API_KEY` is sent where it is set."""

    def __init__(self, name: str, address: str) -> None:
        key = os.environ.get(KEY_VARIABLE)
        super().__init__(name, address, {"Authorization": f"Bearer {key}"} if key else {})

    def generate(  # noqa: D102  see Engine
        self,
        prompt: str | Sequence[int],
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
    ) -> Iterator[Piece]:
        self._refuse_scales(scales)
        text = prompt if isinstance(prompt, str) else list(prompt)
        return self._stream("/completions", completion_request(text, options or GenerateOptions()))

    def chat(  # noqa: D102  see Engine
        self,
        messages: Messages,
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] | None = None,
    ) -> Iterator[Piece]:
        self._refuse_scales(scales)
        request = chat_request(
            messages, options or GenerateOptions(), tools=tools, tool_choice=tool_choice
        )
        return self._stream("/chat/completions", request)

    def embed(self, texts: Sequence[str]) -> Embeddings:  # noqa: D102  see Engine
        with self._asked("/embeddings", {"model": self.name, "input": list(texts)}) as response:
            answer = json.loads(response.read())
        entries = sorted(answer["data"], key=lambda entry: entry["index"])
        return Embeddings(
            vectors=[entry["embedding"] for entry in entries],
            n_tokens=answer.get("usage", {}).get("prompt_tokens", 0),
        )

    def _stream(self, path: str, request: dict[str, Any]) -> Iterator[Piece]:
        return joined(self._chunks(path, request | {"model": self.name}))

    def _chunks(self, path: str, request: dict[str, Any]) -> Iterator[Any]:
        with self._asked(path, request) as response:
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise EngineError(f"{self._address}: {chunk['error']}")
                yield chunk


class OllamaEngine(RemoteEngine):
    """A model in an Ollama server, through its own API."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name, address, {})

    def generate(  # noqa: D102  see Engine
        self,
        prompt: str | Sequence[int],
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
    ) -> Iterator[Piece]:
        self._refuse_scales(scales)
        if not isinstance(prompt, str):
            raise UnsupportedError(f"{self.name}: Ollama takes text, not token ids")
        return self._stream("/api/generate", {"prompt": prompt, "raw": True}, options)

    def chat(  # noqa: D102  see Engine
        self,
        messages: Messages,
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] | None = None,
    ) -> Iterator[Piece]:
        self._refuse_scales(scales)
        if tool_choice is not None and tool_choice != "auto":
            raise UnsupportedError(f"{self.name}: Ollama does not take a tool choice")
        request: dict[str, Any] = {"messages": [dict(message) for message in messages]}
        if tools:
            request["tools"] = [dict(tool) for tool in tools]
        return self._stream("/api/chat", request, options)

    def embed(self, texts: Sequence[str]) -> Embeddings:  # noqa: D102  see Engine
        with self._asked("/api/embed", {"model": self.name, "input": list(texts)}) as response:
            answer = json.loads(response.read())
        return Embeddings(vectors=answer["embeddings"], n_tokens=answer.get("prompt_eval_count", 0))

    def _stream(
        self, path: str, request: dict[str, Any], options: GenerateOptions | None
    ) -> Iterator[Piece]:
        chosen = options or GenerateOptions()
        request |= {"model": self.name, "stream": True, "options": ollama_options(chosen)}
        if chosen.json_schema is not None:
            request["format"] = dict(chosen.json_schema) or "json"
        if chosen.n_log_probabilities:
            request |= {"logprobs": True, "top_logprobs": chosen.n_log_probabilities}
        with self._asked(path, request) as response:
            for line in response.iter_lines():
                if line.strip():
                    chunk = json.loads(line)
                    if "error" in chunk:
                        raise EngineError(f"{self._address}: {chunk['error']}")
                    yield ollama_piece(chunk)


def ollama_options(options: GenerateOptions) -> dict[str, Any]:
    """Return sampling options by Ollama's names."""
    found = {
        theirs: value
        for ours, theirs in OLLAMA_OPTIONS.items()
        if (value := getattr(options, ours)) is not None
    }
    return found | ({"stop": list(options.stop)} if options.stop else {})


def ollama_piece(chunk: Mapping[str, Any]) -> Piece:
    """Return one line of an Ollama answer as a piece."""
    from llamune.engine.pieces import log_probabilities

    message: Mapping[str, Any] = chunk.get("message") or {}
    calls = tuple(message.get("tool_calls") or ())
    reason = chunk.get("done_reason") or "stop"
    return Piece(
        text=chunk.get("response") or message.get("content") or "",
        thinking=chunk.get("thinking") or message.get("thinking") or "",
        tool_calls=calls,
        log_probabilities=log_probabilities({"content": chunk.get("logprobs") or ()}),
        finish_reason=reason if chunk.get("done") else None,
        n_prompt_tokens=chunk.get("prompt_eval_count"),
        n_answer_tokens=chunk.get("eval_count"),
        prompt_seconds=seconds(chunk.get("prompt_eval_duration")),
        answer_seconds=seconds(chunk.get("eval_duration")),
    )


def seconds(nanoseconds: float | None) -> float | None:
    """Return nanoseconds as seconds, where there are any."""
    return None if nanoseconds is None else nanoseconds / NANOSECONDS
