"""A running Ollama: what it holds in memory, and creating models through its API.

Two eras of `POST /api/create` exist. Up to 0.34.0 a request may carry one adapter, and the server
writes a copy of every GGUF file, so that the stored digest differs from the uploaded one. From
0.34.1 on adapters are refused, and files are kept as they are.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from llamune.files import sha256_of
from llamune.store import media_types
from llamune.store.digests import digests_in
from llamune.store.errors import StoreError
from llamune.store.manifests import optional_text
from llamune.store.models import Model
from llamune.store.names import ModelName
from llamune.store.registry import is_loopback
from llamune.store.stores import CHUNK_BYTES, Advance

__all__ = ["LoadedModel", "Ollama", "OllamaError", "ollama_address"]

DEFAULT_PORT = 11434
PORTS = {"http": 80, "https": 443}
FIRST_WITHOUT_ADAPTERS = (0, 34, 1)
TIMEOUT = httpx.Timeout(10.0, connect=3.0)
LONG_TIMEOUT = httpx.Timeout(1800.0, connect=3.0)  # hashing and copying a large file takes minutes
SECONDS_TO_UNLOAD = 30.0
SECONDS_BETWEEN_LOOKS = 0.2
MAX_ANSWER_BYTES = 64 << 20
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class OllamaError(StoreError):
    """Ollama's server cannot be reached, or refuses what it was asked."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that Ollama holds in memory.

    Args:
        name: as Ollama calls it.
        size_bytes: memory in all.
        size_vram_bytes: of these on a graphics card.
        digest: of its manifest, `sha256:<hex>`.
    """

    name: str
    size_bytes: int
    size_vram_bytes: int
    digest: str | None


class Ollama:
    """A connection to a running server. Use `with`.

    Args:
        address: default where `OLLAMA_HOST` says, else this machine, port 11434.

    Attributes:
        address: without a slash at its end.
        version: what the server says; asked first of all.
        is_remote: whether it runs on another machine.

    Raises:
        OllamaError: no server answers there.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address or ollama_address()
        self.is_remote = not is_loopback(urlsplit(self.address).hostname or "")
        self.client = httpx.Client(base_url=self.address, timeout=TIMEOUT, trust_env=self.is_remote)
        try:
            self.version = str(self.ask("GET", "/api/version").get("version", ""))
        except OllamaError:
            self.client.close()
            raise

    @classmethod
    def find(cls) -> Ollama | None:
        """Return a connection, or None when no server answers."""
        try:
            return cls()
        except OllamaError:
            return None

    def __enter__(self) -> Ollama:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    @property
    def takes_adapters(self) -> bool:
        """Whether this version creates models with an adapter; unknown versions do not."""
        found = VERSION.match(self.version)
        version = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
        return (0, 0, 0) < version < FIRST_WITHOUT_ADAPTERS

    # memory

    def loaded(self) -> list[LoadedModel]:
        """Return the models that it holds in memory (`GET /api/ps`)."""
        entries = self.ask("GET", "/api/ps").get("models") or []
        return [loaded_model(entry) for entry in entries if isinstance(entry, dict)]

    def unload(self, name: str) -> None:
        """Ask it to drop a model from memory, and wait until it has.

        Raises:
            OllamaError: it is still there after half a minute.
        """
        self.ask("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
        end = time.monotonic() + SECONDS_TO_UNLOAD
        while any(entry.name == name for entry in self.loaded()):
            if time.monotonic() > end:
                raise OllamaError(f"{name}: Ollama still holds it", hint=f"ollama stop {name}")
            time.sleep(SECONDS_BETWEEN_LOOKS)

    # creating

    def has(self, name: ModelName) -> bool:
        """Whether it has a model of that name."""
        entries = self.ask("GET", "/api/tags").get("models") or []
        known = (ModelName.maybe(str(entry.get("name", ""))) for entry in entries)
        return any(other is not None and other.key == name.key for other in known)

    def send_blob(self, path: Path, digest: str | None, advance: Advance) -> str:
        """Send a file, unless the server has it, and return its digest."""
        found = digest or f"sha256:{sha256_of(path)}"
        if self.client_request("HEAD", f"/api/blobs/{found}", accepted=(200, 404)) == 200:
            advance(path.stat().st_size)
            return found
        self.client_request(
            "POST",
            f"/api/blobs/{found}",
            accepted=(200, 201),
            content=file_pieces(path, advance),
            timeout=LONG_TIMEOUT,
            headers={"Content-Length": str(path.stat().st_size)},
        )
        return found

    def create(
        self,
        name: ModelName,
        model: Model,
        *,
        merged: Path | None = None,
        advance: Advance | None = None,
        on_status: Callable[[str], object] | None = None,
    ) -> str | None:
        """Create a model under a name and return the digest of the file that Ollama keeps.

        Args:
            name: under which `ollama run` finds it.
            model: its file, adapters and small layers.
            merged: a file with the adapters folded in, sent in place of both.
            advance: called with the number of bytes sent or found there already.
            on_status: called with what the server says it is doing.

        Returns:
            The digest, None when the server does not say where the file lies.

        Raises:
            OllamaError: the server refuses.
        """
        told = advance or (lambda _: None)
        if self.is_remote and on_status is not None:
            on_status(f"sending to another machine: {self.address}")
        files = [(path, layer_digest(model, index)) for index, path in enumerate(model.paths)]
        if merged is not None:
            files = [(merged, None)]
        request: dict[str, Any] = {
            "model": str(name),
            "files": {
                file_name(index, len(files)): self.send_blob(path, digest, told)
                for index, (path, digest) in enumerate(files)
            },
            "stream": True,
            **said_of(model),
        }
        if model.projector is not None:
            request["files"]["projector.gguf"] = self.send_blob(model.projector, None, told)
        if model.adapters and merged is None:
            request["adapters"] = {
                f"adapter-{index}.gguf": self.send_blob(adapter.path, adapter.digest, told)
                for index, adapter in enumerate(model.adapters)
            }
        for line in self.stream("/api/create", request):
            if on_status is not None and isinstance(line.get("status"), str):
                on_status(line["status"])
        return self.kept_digest(name)

    def kept_digest(self, name: ModelName) -> str | None:
        """Return the digest under which it keeps a model's file."""
        shown = self.ask("POST", "/api/show", {"model": str(name)})
        for line in str(shown.get("modelfile", "")).splitlines():
            if line.startswith("FROM "):
                return next(iter(digests_in(line)), None)
        return None

    # HTTP

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return the JSON object that comes back.

        Raises:
            OllamaError: the server cannot be reached, refuses, or answers something else.
        """
        try:
            response = self.client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.unreachable(error) from error
        self.check(response.status_code, response.content, (200,), path)
        return self.decode(response.content, path)

    def client_request(
        self, method: str, path: str, *, accepted: tuple[int, ...], **options: Any
    ) -> int:
        """Send a request whose answer is its status."""
        try:
            response = self.client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self.unreachable(error) from error
        self.check(response.status_code, response.content, accepted, path)
        return response.status_code

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Send a request and yield the JSON objects that arrive line by line.

        Raises:
            OllamaError: a line says so, or the last one is not `success`.
        """
        status = None
        try:
            with self.client.stream("POST", path, json=body, timeout=LONG_TIMEOUT) as response:
                if response.status_code != 200:
                    self.check(response.status_code, response.read(), (200,), path)
                for line in response.iter_lines():
                    if not line.strip():
                        continue
                    value = self.decode(line.encode(), path)
                    if error_text := optional_text(value.get("error")):
                        raise OllamaError(f"Ollama refuses: {error_text[:300]}")
                    status = value.get("status")
                    yield value
        except httpx.HTTPError as error:
            raise self.unreachable(error) from error
        if status != "success":
            raise OllamaError(f"{self.address}{path}: ended without success ({status})")

    def check(self, status: int, data: bytes, accepted: tuple[int, ...], path: str) -> None:
        """Refuse a status that means a fault."""
        if status in accepted:
            return
        try:
            told = json.loads(data)["error"]
        except (ValueError, KeyError, TypeError):
            told = data[:200].decode("utf-8", errors="replace")
        raise OllamaError(f"{self.address}{path}: status {status}: {told}")

    def decode(self, data: bytes, path: str) -> dict[str, Any]:
        """Read a JSON object."""
        try:
            value = json.loads(data[:MAX_ANSWER_BYTES])
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise OllamaError(f"{self.address}{path}: answers no JSON object; is it Ollama?")
        return value

    def unreachable(self, error: Exception) -> OllamaError:
        """Return the error for a connection that failed."""
        return OllamaError(
            f"{self.address}: Ollama does not answer ({error or type(error).__name__})",
            hint="start it with `ollama serve`, or set OLLAMA_HOST",
        )


def ollama_address() -> str:
    """Return the server's address from `OLLAMA_HOST`, read as Ollama's own client reads it."""
    text = os.environ.get("OLLAMA_HOST", "").strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    default_port = PORTS.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
    place, slash, path = rest.partition("/")
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "127.0.0.1", parts.port or default_port
    except ValueError:
        host, port = "127.0.0.1", DEFAULT_PORT
    if host in ("0.0.0.0", "::"):  # noqa: S104  where a server listens, not where it is found
        host = "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{slash}{path}".rstrip("/")


def loaded_model(entry: Mapping[str, Any]) -> LoadedModel:
    """Read one entry of `/api/ps`."""
    bare = str(entry.get("digest", "")).removeprefix("sha256:")
    digest = next(iter(digests_in(f"sha256:{bare}")), None)
    return LoadedModel(
        name=str(entry.get("name") or entry.get("model") or ""),
        size_bytes=whole(entry.get("size")),
        size_vram_bytes=whole(entry.get("size_vram")),
        digest=digest,
    )


def whole(value: object) -> int:
    """Return a count from outside; anything that is none counts as 0."""
    return value if isinstance(value, int) and value > 0 else 0


def said_of(model: Model) -> dict[str, Any]:
    """Return what a model's small layers say, as fields of a create request."""
    said = {
        "template": model.template,
        "system": model.system,
        "license": list(model.licenses),
        "parameters": dict(model.parameters),
        "messages": [dict(message) for message in model.messages],
        "renderer": model.renderer,
        "parser": model.parser,
    }
    return {key: value for key, value in said.items() if value}


def layer_digest(model: Model, index: int) -> str | None:
    """Return the digest of one of a stored model's files."""
    if model.manifest is None:
        return None
    return model.manifest.of_type(media_types.MODEL)[index].digest


def file_name(index: int, count: int) -> str:
    """Return the name of a file in a create request: shards keep the form that marks them."""
    if count == 1:
        return "model.gguf"
    return f"model-{index + 1:05d}-of-{count:05d}.gguf"


def file_pieces(path: Path, advance: Advance) -> Iterator[bytes]:
    """Yield a file in pieces, counted as they leave."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece
            advance(len(piece))
