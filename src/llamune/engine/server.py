"""xllamacpp's server inside this process, called without a network.

It opens a port of its own whether one wants it or not. The port is bound to loopback, takes a
random key that is never shown, and answers no other origin.
"""

from __future__ import annotations

import json
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llamune.engine.errors import EngineError
from llamune.engine.headers import check_headers
from llamune.engine.native import can_use_gpu, extension
from llamune.engine.options import Embeddings
from llamune.gguf import ModelFile

__all__ = ["LlamaServer", "LoadedAdapter"]

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


class LlamaServer:
    """One base model in memory with its adapters, working on several requests at once.

    Args:
        paths: the GGUF file, or its shards in order.
        adapters: adapters to load beside it.
        n_ctx: tokens of context a request may use.
        n_parallel: requests that are worked on at the same time.
        n_threads: CPU threads.
        n_gpu_layers: layers to put on a GPU; -1 = as many as there are.
        embeddings: load the model for embeddings instead of for answers.

    Raises:
        EngineError: llama.cpp is not installed, or refuses the model or an adapter.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        adapters: Sequence[LoadedAdapter],
        n_ctx: int,
        n_parallel: int,
        n_threads: int,
        n_gpu_layers: int,
        embeddings: bool,
    ) -> None:
        self._key = secrets.token_urlsafe(32)
        self._n_working = 0
        self._idle = threading.Condition()
        self._scratch, path = one_path(list(paths))
        self._server: Any = start(
            path,
            adapters=adapters,
            key=self._key,
            n_ctx=n_ctx,
            n_parallel=n_parallel,
            n_threads=n_threads,
            n_gpu_layers=n_gpu_layers,
            embeddings=embeddings,
        )
        self.address = str(self._server.listening_address)

    def close(self) -> None:
        """Finish what is being worked on and free the model; safe to call twice."""
        with self._idle:
            self._idle.wait_for(lambda: self._n_working == 0)
        if self._server is not None:
            # the server's loop forgets a request to end that came before its first turn; this
            # question is answered by the loop itself
            self.ask("GET", "/lora-adapters")
        self._server = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def run(
        self, method: str, request: dict[str, Any], receive: Callable[[dict[str, Any]], bool]
    ) -> None:
        """Run one request in the calling thread and hand over the chunks of its answer.

        Args:
            method: of xllamacpp's server.
            request: its body.
            receive: takes a chunk; true ends the work at the next token.

        Raises:
            EngineError: the server refuses the request.
        """
        handler = getattr(self._opened(), method)
        failures: list[Exception] = []

        def take(chunk: dict[str, Any]) -> bool:
            try:
                refuse_error(chunk)
                return receive(chunk)
            except Exception as error:  # noqa: BLE001  raised below: xllamacpp would swallow it
                failures.append(error)
                return True

        with self._at_work():
            try:
                handler(request, take)
            except (ValueError, RuntimeError, TypeError) as error:
                raise EngineError(f"llama.cpp: {error}") from error
        if failures:
            raise failures[0]

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Keep the model from being freed."""
        with self._idle:
            self._n_working += 1
        try:
            yield
        finally:
            with self._idle:
                self._n_working -= 1
                self._idle.notify_all()

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one vector a text."""
        answer = self._opened().handle_embeddings({"input": list(texts)})
        refuse_error(answer)
        entries = sorted(answer["data"], key=lambda entry: entry["index"])
        return Embeddings(
            vectors=[entry["embedding"] for entry in entries],
            n_tokens=answer["usage"]["prompt_tokens"],
        )

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the server's own port for what has no direct call.

        Raises:
            EngineError: the server refuses the request.
        """
        self._opened()
        parts = urlsplit(self.address)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=HTTP_SECONDS)
        try:
            headers = {
                "Authorization": f"Bearer {self._key}",
                "Content-Type": "application/json",
            }
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        refuse_error(answer)
        return answer

    def _opened(self) -> Any:
        if self._server is None:
            raise EngineError("the engine has been closed")
        return self._server


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
        GgufError: a file's header breaks a rule of the format.
        EngineError: it cannot load the model or an adapter.
    """
    package = extension()
    check_headers([path, *(adapter.path for adapter in adapters)])
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
    if embeddings and not says_pooling(path):
        parameters.pooling_type = package.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
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


def says_pooling(path: Path) -> bool:
    """Whether a file says how token vectors become a text's; models made to answer do not."""
    with ModelFile.open(path) as file:
        return f"{file.architecture}.pooling_type" in file.metadata


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
