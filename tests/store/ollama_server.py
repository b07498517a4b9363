"""A stand-in for Ollama's server, of both eras, as its API is documented.

It keeps a store of its own in the documented layout. Era A (up to 0.34.0) takes one adapter and
writes a copy of every GGUF file, so that the digest changes; era B (from 0.34.1) refuses adapters
and keeps files as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")
OLLAMA = "application/vnd.ollama.image."
KNOWN_FIELDS = {
    *("model", "from", "files", "adapters", "template", "license", "system", "parameters"),
    *("messages", "quantize", "renderer", "parser", "requires", "info", "stream"),
}


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class OllamaStandIn:
    """The server.

    Attributes:
        address: where it listens.
        requests: every request, as (method, path, JSON body or None).
        loaded: names of the models "in memory".
    """

    def __init__(self, root: Path, version: str) -> None:
        self.root = root
        self.version = version
        self.takes_adapters = tuple(map(int, version.split("."))) < (0, 34, 1)
        self.requests: list[tuple[str, str, Any]] = []
        self.loaded: list[str] = []
        self.fail_while_streaming: str | None = None
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                stand_in.handle(self)

            do_GET = do_HEAD = do_POST = do_DELETE = handle_any

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    # HTTP

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        data = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        blob = re.fullmatch(r"/api/blobs/(.*)", request.path)
        body = json.loads(data) if data and not blob else None
        self.requests.append((request.command, request.path, body))
        try:
            if blob:
                self.answer(request, self.blob(request.command, blob[1], data), b"")
            elif (request.command, request.path) == ("POST", "/api/create"):
                self.create(request, body)
            else:
                verbs = {
                    "/api/version": lambda _: {"version": self.version},
                    "/api/tags": self.tags,
                    "/api/ps": self.ps,
                    "/api/show": self.show,
                    "/api/generate": self.generate,
                }
                if request.path not in verbs:
                    raise Refused(404, "404 page not found")
                self.answer(request, 200, json.dumps(verbs[request.path](body)).encode())
        except Refused as refused:
            self.answer(request, refused.status, json.dumps({"error": str(refused)}).encode())

    def answer(self, request: BaseHTTPRequestHandler, status: int, data: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "application/json; charset=utf-8")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    # endpoints

    def blob(self, method: str, digest: str, data: bytes) -> int:
        if not DIGEST.fullmatch(digest):
            raise Refused(400, "invalid digest format")
        path = self.path_of(digest)
        if method == "HEAD":
            return 200 if path.exists() else 404
        if path.exists():
            return 200
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise Refused(400, f"digest mismatch, expected {digest!r}")
        path.write_bytes(data)
        return 201

    def tags(self, _: Any) -> dict[str, Any]:
        models = []
        for path in sorted((self.root / "manifests").glob("*/*/*/*")):
            name = f"{path.parent.name}:{path.name}"
            if path.parent.parent.name != "library":
                name = f"{path.parent.parent.name}/{name}"
            models.append(
                {
                    "name": name,
                    "model": name,
                    "modified_at": "2026-11-24T10:00:00.123456789+09:00",
                    "size": 1,
                    "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "details": {"format": "gguf", "family": "llama", "parameter_size": "1M"},
                }
            )
        return {"models": models}

    def ps(self, _: Any) -> dict[str, Any]:
        digests = {entry["name"]: entry["digest"] for entry in self.tags(None)["models"]}
        return {
            "models": [
                {
                    "name": name,
                    "model": name,
                    "size": 5_000_000_000,
                    "size_vram": 4_000_000_000,
                    "digest": digests.get(name, "0" * 64),
                    "details": {"format": "gguf", "family": "llama"},
                    "expires_at": "2026-11-24T10:05:00.5+09:00",
                    "context_length": 4096,
                }
                for name in self.loaded
            ]
        }

    def generate(self, body: Any) -> dict[str, Any]:
        if body.get("keep_alive") == 0 and not body.get("prompt"):
            self.loaded = [name for name in self.loaded if name != body["model"]]
            return {"model": body["model"], "response": "", "done": True, "done_reason": "unload"}
        raise Refused(500, "the stand-in generates nothing")

    def show(self, body: Any) -> dict[str, Any]:
        path = self.manifest_path(body["model"])
        if not path.exists():
            raise Refused(404, f"model '{body['model']}' not found")
        layers = json.loads(path.read_text())["layers"]
        weights = [layer for layer in layers if layer["mediaType"] == f"{OLLAMA}model"]
        lines = ['# Modelfile generated by "ollama show"', ""]
        lines += [f"FROM {self.path_of(layer['digest'])}" for layer in weights]
        return {
            "modelfile": "\n".join(lines),
            "details": {"format": "gguf"},
            "model_info": {"general.architecture": "llama"},
            "capabilities": ["completion"],
        }

    def create(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        unknown = set(body) - KNOWN_FIELDS
        assert not unknown, f"fields that the API does not have: {unknown}"
        adapters = body.get("adapters") or {}
        if adapters and not self.takes_adapters:
            raise Refused(400, "LoRA adapters are no longer supported")
        if len(adapters) > 1:
            raise Refused(400, "only one adapter is currently supported")
        for name in (*body.get("files", {}), *adapters):
            if name.startswith("/") or ".." in name or "\\" in name or ":" in name:
                raise Refused(400, f"invalid file name {name!r}")
        lines: list[dict[str, Any]] = [{"status": "parsing GGUF"}]
        layers = [self.kept(digest, f"{OLLAMA}model") for digest in body["files"].values()]
        layers += [self.kept(digest, f"{OLLAMA}adapter") for digest in adapters.values()]
        for kind in ("template", "system"):
            if body.get(kind):
                layers.append(self.written(body[kind].encode(), f"{OLLAMA}{kind}"))
        texts = body.get("license") or []
        for text in [texts] if isinstance(texts, str) else texts:
            layers.append(self.written(text.encode(), f"{OLLAMA}license"))
        for field, kind in (("parameters", "params"), ("messages", "messages")):
            if body.get(field):
                layers.append(self.written(json.dumps(body[field]).encode(), f"{OLLAMA}{kind}"))
        if self.fail_while_streaming:
            self.send_lines(request, [*lines, {"error": self.fail_while_streaming}])
            return
        config = {key: body[key] for key in ("renderer", "parser") if key in body}
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self.written(
                json.dumps({"model_format": "gguf", **config}).encode(),
                "application/vnd.docker.container.image.v1+json",
            ),
            "layers": layers,
        }
        path = self.manifest_path(body["model"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest) + "\n")
        self.send_lines(request, [*lines, {"status": "writing manifest"}, {"status": "success"}])

    def send_lines(self, request: BaseHTTPRequestHandler, lines: list[dict[str, Any]]) -> None:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        request.send_response(200)
        request.send_header("Content-Type", "application/x-ndjson")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    # its store

    def path_of(self, digest: str) -> Path:
        return self.root / "blobs" / digest.replace(":", "-")

    def manifest_path(self, name: str) -> Path:
        model, _, tag = name.partition(":")
        space, _, model = model.rpartition("/")
        folder = self.root / "manifests/registry.ollama.ai" / (space or "library")
        return folder / model / (tag or "latest")

    def kept(self, digest: str, media_type: str) -> dict[str, Any]:
        path = self.path_of(digest)
        if not path.exists():
            raise Refused(400, f"blob {digest} not found")
        data = path.read_bytes()
        if self.takes_adapters and media_type.endswith("model"):
            return self.written(data + bytes(32), media_type)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def written(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.path_of(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}
