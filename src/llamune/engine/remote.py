"""Models that run elsewhere: an Ollama server, or any endpoint that speaks OpenAI's API."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llamune.engine.base import Engine
from llamune.engine.errors import EngineError
from llamune.engine.options import Asked, Continuation, Embeddings, GenerateOptions, Piece
from llamune.engine.pieces import chat_request, completion_request, joined, log_probabilities
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

    def stream(self, asked: Asked) -> Iterator[Piece]:
        if asked.scales:
            raise UnsupportedError(
                f"{self.name}: adapters cannot be switched on a remote engine",
                hint="name the model that has the adapter",
            )
        return self._answer(asked)

    @abstractmethod
    def _answer(self, asked: Asked) -> Iterator[Piece]:
        """Ask the server and yield its answer's pieces."""

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

    def _parsed(self, text: str) -> dict[str, Any]:
        """Return a part of an answer.

        Raises:
            EngineError: it is no JSON object, or says that something went wrong.
        """
        try:
            chunk = json.loads(text)
        except json.JSONDecodeError as error:
            raise EngineError(f"{self._address}: the answer is not JSON: {text[:200]}") from error
        if not isinstance(chunk, dict):
            raise EngineError(f"{self._address}: the answer is no JSON object: {text[:200]}")
        if "error" in chunk:
            raise EngineError(f"{self._address}: {chunk['error']}")
        return chunk


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

    def _answer(self, asked: Asked) -> Iterator[Piece]:
        if isinstance(asked, Continuation):
            request = completion_request(asked.prompt, asked.options)
            return joined(self._chunks("/completions", request))
        return joined(self._chunks("/chat/completions", chat_request(asked)))

    def embed(self, texts: Sequence[str]) -> Embeddings:  # noqa: D102  see Engine
        with self._asked("/embeddings", {"model": self.name, "input": list(texts)}) as response:
            answer = json.loads(response.read())
        entries = sorted(answer["data"], key=lambda entry: entry["index"])
        return Embeddings(
            vectors=[entry["embedding"] for entry in entries],
            n_tokens=answer.get("usage", {}).get("prompt_tokens", 0),
        )

    def _chunks(self, path: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._asked(path, request | {"model": self.name}) as response:
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if line.startswith("data:") and data != "[DONE]":
                    yield self._parsed(data)


class OllamaEngine(RemoteEngine):
    """A model in an Ollama server, through its own API."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name, address, {})

    def _answer(self, asked: Asked) -> Iterator[Piece]:
        if isinstance(asked, Continuation):
            if not isinstance(asked.prompt, str):
                raise UnsupportedError(f"{self.name}: Ollama takes text, not token ids")
            request: dict[str, Any] = {"prompt": asked.prompt, "raw": True}
            return self._lines("/api/generate", request, asked.options)
        if asked.tool_choice not in (None, "auto"):
            raise UnsupportedError(f"{self.name}: Ollama does not take a tool choice")
        request = {"messages": [dict(message) for message in asked.messages]}
        if asked.tools:
            request["tools"] = [dict(tool) for tool in asked.tools]
        return self._lines("/api/chat", request, asked.options)

    def embed(self, texts: Sequence[str]) -> Embeddings:  # noqa: D102  see Engine
        with self._asked("/api/embed", {"model": self.name, "input": list(texts)}) as response:
            answer = json.loads(response.read())
        return Embeddings(vectors=answer["embeddings"], n_tokens=answer.get("prompt_eval_count", 0))

    def _lines(
        self, path: str, request: dict[str, Any], options: GenerateOptions
    ) -> Iterator[Piece]:
        request |= {"model": self.name, "stream": True, "options": ollama_options(options)}
        if options.json_schema is not None:
            request["format"] = dict(options.json_schema) or "json"
        if options.n_log_probabilities:
            request |= {"logprobs": True, "top_logprobs": options.n_log_probabilities}
        with self._asked(path, request) as response:
            for line in response.iter_lines():
                if line.strip():
                    yield ollama_piece(self._parsed(line))


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
