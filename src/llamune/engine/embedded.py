"""llama.cpp inside this process: xllamacpp's server, called without a network.

The server opens a port of its own whether one wants it or not. It is bound to loopback, takes a
random key that is never shown, and answers no other origin.
"""

from __future__ import annotations

import json
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from llamune.engine.base import Engine, Messages, Scales
from llamune.engine.errors import EngineError
from llamune.engine.native import can_use_gpu, extension
from llamune.engine.options import GenerateOptions, Piece, with_defaults
from llamune.engine.pieces import chat_request, completion_request, counts, piece_of
from llamune.engine.threads import default_threads

__all__ = ["EmbeddedEngine", "LoadedAdapter"]

Render = Callable[[Messages], Sequence[int]]
NO_ORIGIN = ""
HTTP_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class LoadedAdapter:
    """A GGUF adapter that the server holds beside its base.

    Attributes:
        name: what requests call it.
        path: the GGUF file.
        scale: its strength where a request does not say; 0 = attached only when asked for.
    """

    name: str
    path: Path
    scale: float = 1.0


class EmbeddedEngine(Engine):
    """One base model in memory with any number of adapters, answering several requests at once.

    Args:
        name: what the person called the model.
        paths: the GGUF file, or its shards in order.
        adapters: adapters to load beside it.
        n_ctx: tokens of context a request may use.
        n_parallel: requests that are worked on at the same time.
        n_threads: CPU threads; default one a physical core.
        n_gpu_layers: layers to put on a GPU; -1 = as many as there are.
        embeddings: open the model for `embed` instead of for answers.
        opening: messages that every conversation begins with; its system prompt gives way to a
            request's own.
        parameters: generation options that apply where a request leaves them open.
        render: turns messages into prompt ids where the model's template is not the file's own.

    Raises:
        EngineError: llama.cpp is not installed, or refuses the model or an adapter.
    """

    def __init__(
        self,
        name: str,
        paths: Path | Sequence[Path],
        *,
        adapters: Sequence[LoadedAdapter] = (),
        n_ctx: int,
        n_parallel: int = 1,
        n_threads: int | None = None,
        n_gpu_layers: int = -1,
        embeddings: bool = False,
        opening: Messages = (),
        parameters: Mapping[str, Any] | None = None,
        render: Render | None = None,
    ) -> None:
        self.name = name
        self.adapters = tuple(adapter.name for adapter in adapters)
        self.n_ctx = n_ctx
        self._scales = {adapter.name: adapter.scale for adapter in adapters}
        self._opening = tuple(opening)
        self._parameters = dict(parameters or {})
        self._render = render
        self._key = secrets.token_urlsafe(32)
        self._working: set[threading.Thread] = set()
        self._scratch, path = one_path([paths] if isinstance(paths, Path) else list(paths))
        self._server: Any = start(
            path,
            adapters=adapters,
            key=self._key,
            n_ctx=n_ctx,
            n_parallel=n_parallel,
            n_threads=n_threads or default_threads(),
            n_gpu_layers=n_gpu_layers,
            embeddings=embeddings,
        )

    @property
    def address(self) -> str:
        """URL of the server's own port; it answers only to this process's key."""
        return str(self._server.listening_address)

    def generate(  # noqa: D102  see Engine
        self,
        prompt: str | Sequence[int],
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
    ) -> Iterator[Piece]:
        text = prompt if isinstance(prompt, str) else list(prompt)
        request = completion_request(text, self._filled(options))
        return self._stream("handle_completions", request, scales)

    def chat(  # noqa: D102  see Engine
        self,
        messages: Messages,
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] | None = None,
    ) -> Iterator[Piece]:
        conversation = begin(self._opening, messages)
        if self._render is not None and not tools:
            return self.generate(self._render(conversation), options, scales=scales)
        request = chat_request(
            conversation, self._filled(options), tools=tools, tool_choice=tool_choice
        )
        return self._stream("handle_chat_completions", request, scales)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:  # noqa: D102  see Engine
        answer = self._open().handle_embeddings({"input": list(texts)})
        refuse_error(answer)
        return [entry["embedding"] for entry in sorted(answer["data"], key=lambda e: e["index"])]

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return llama.cpp's own token ids of a text."""
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return [int(token) for token in self._post("/tokenize", body)["tokens"]]

    def render(self, messages: Messages) -> str:
        """Return the prompt that llama.cpp's own template engine makes of a conversation."""
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def close(self) -> None:  # noqa: D102  see Engine
        for thread in list(self._working):
            thread.join()
        self._server = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _filled(self, options: GenerateOptions | None) -> GenerateOptions:
        return with_defaults(options or GenerateOptions(), self._parameters)

    def _open(self) -> Any:
        if self._server is None:
            raise EngineError(f"{self.name}: the engine has been closed")
        return self._server

    def _lora(self, scales: Scales | None) -> list[dict[str, float]]:
        wanted = self._scales if scales is None else scales
        if unknown := set(wanted) - set(self.adapters):
            raise EngineError(
                f"{self.name}: no adapter named {min(unknown)!r} is loaded",
                hint=f"loaded: {', '.join(self.adapters) or 'none'}",
            )
        return [
            {"id": number, "scale": wanted.get(name, 0.0)}
            for number, name in enumerate(self.adapters)
        ]

    def _stream(
        self, method: str, request: dict[str, Any], scales: Scales | None
    ) -> Iterator[Piece]:
        handler = getattr(self._open(), method)
        if self.adapters:
            request["lora"] = self._lora(scales)
        return self._pieces(handler, request)

    def _pieces(self, handler: Any, request: dict[str, Any]) -> Iterator[Piece]:
        """Run one request on a thread of its own and yield what it says."""
        arrived: SimpleQueue[Any] = SimpleQueue()
        stopped = threading.Event()

        def receive(chunk: Any) -> bool:
            arrived.put(chunk)
            return stopped.is_set()  # true ends the work

        def work() -> None:
            try:
                handler(request, receive)
            except (ValueError, RuntimeError, TypeError) as error:
                arrived.put({"error": {"message": str(error)}})
            finally:
                arrived.put(None)

        thread = threading.Thread(target=work, daemon=True)
        self._working.add(thread)
        thread.start()
        try:
            yield from joined(iter(arrived.get, None))
        finally:
            stopped.set()
            thread.join()
            self._working.discard(thread)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        parts = urlsplit(self.address)
        assert parts.hostname is not None  # noqa: S101  the server always names its host
        connection = HTTPConnection(parts.hostname, parts.port, timeout=HTTP_SECONDS)
        try:
            headers = {
                "Authorization": f"Bearer {self._key}",
                "Content-Type": "application/json",
            }
            connection.request("POST", path, json.dumps(body), headers)
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        refuse_error(answer)
        return answer


def joined(chunks: Iterator[Any]) -> Iterator[Piece]:
    """Yield chunks as pieces; the one that ends the answer waits for the counts after it."""
    ended: Piece | None = None
    for chunk in chunks:
        refuse_error(chunk)
        piece = piece_of(chunk)
        if ended is not None:
            piece = replace(ended, **counts(piece))
        if piece.finish_reason is not None and piece.n_answer_tokens is None:
            ended = piece
            continue
        ended = None
        yield piece
    if ended is not None:
        yield ended


def begin(opening: Messages, messages: Messages) -> list[Mapping[str, Any]]:
    """Return a conversation with a model's own opening put before it."""
    has_system = any(message.get("role") == "system" for message in messages)
    before = [m for m in opening if not (has_system and m.get("role") == "system")]
    return [*before, *messages]


def one_path(paths: list[Path]) -> tuple[tempfile.TemporaryDirectory[str] | None, Path]:
    """Return a path by which llama.cpp finds all shards, and the folder of links it needs.

    llama.cpp finds the other shards by the first one's name; blobs of a store have no such names.
    """
    if len(paths) == 1 or "-00001-of-" in paths[0].name:
        return None, paths[0]
    scratch = tempfile.TemporaryDirectory(prefix="llamune-shards-")
    links = [
        Path(scratch.name) / f"model-{number:05d}-of-{len(paths):05d}.gguf"
        for number in range(1, len(paths) + 1)
    ]
    for link, path in zip(links, paths, strict=True):
        link.symlink_to(path.resolve())
    return scratch, links[0]


def refuse_error(answer: Any) -> None:
    """Raise if an answer of the server is an error.

    Raises:
        EngineError: with the server's own words.
    """
    if isinstance(answer, Mapping) and "error" in answer:
        error = answer["error"]
        message = error.get("message", error) if isinstance(error, Mapping) else error
        raise EngineError(f"llama.cpp: {message}")


def start(
    path: Path,
    *,
    adapters: Sequence[LoadedAdapter],
    key: str,
    n_ctx: int,
    n_parallel: int,
    n_threads: int,
    n_gpu_layers: int,
    embeddings: bool,
) -> Any:
    """Start xllamacpp's server.

    Raises:
        EngineError: it cannot load the model or an adapter.
    """
    package = extension()
    parameters = package.CommonParams()
    parameters.model.path = str(path)
    parameters.lora_adapters = [lora(package, adapter) for adapter in adapters]
    parameters.n_ctx = n_ctx * n_parallel
    parameters.n_parallel = n_parallel
    parameters.n_gpu_layers = n_gpu_layers
    parameters.cpuparams.n_threads = n_threads
    parameters.cpuparams_batch.n_threads = n_threads
    parameters.fit_params = can_use_gpu()  # a dry run that only a GPU's memory makes worth it
    parameters.embedding = embeddings
    parameters.cache_ram_mib = 0  # its default keeps up to 8 GiB of old prompts
    parameters.warmup = False  # a whole pass before the first answer
    parameters.verbosity = -1
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.cors_origins = NO_ORIGIN
    parameters.cors_credentials = False
    parameters.endpoint_slots = False
    parameters.ui = False
    try:
        server = package.Server(parameters)
    except (RuntimeError, ValueError) as error:
        beside = f" with {len(adapters)} adapter(s)" if adapters else ""
        raise EngineError(f"{path}: llama.cpp cannot load this model{beside}") from error
    take_back_signals()
    return server


def lora(package: Any, adapter: LoadedAdapter) -> Any:
    """Return xllamacpp's record of one adapter."""
    return package.CommonAdapterLoraInfo(str(adapter.path), adapter.scale)


def take_back_signals() -> None:
    """Undo the server's own handlers: Ctrl-C would end the whole process, past Python."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
