"""Registries that lie: stub servers on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.store import (
    DamagedError,
    ModelName,
    NewLayer,
    RegistryError,
    StoreError,
    library,
    plan_pull,
    publish,
    pull,
    pulling,
    push,
    resolve,
)
from llamune.store.registry import Registry

pytestmark = pytest.mark.usefixtures("without_system_stores")
MODEL = "application/vnd.ollama.image.model"
Answer = Callable[[BaseHTTPRequestHandler], None]


class Stub:
    """Answers with what a test lays down by method and path; counts what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                key = f"{self.command} {self.path.partition('?')[0]}"
                stub.asked.append((key, self.headers.get("Authorization")))
                stub.answers.get(key, not_found)(self)

            do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = answer

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.name = ModelName.parse(f"{self.host}/a/m:t")
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def blob(self, data: bytes) -> dict[str, object]:
        """Serve a blob and return its layer."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.answers[f"GET /v2/a/m/blobs/{digest}"] = body(data)
        return {"mediaType": MODEL, "digest": digest, "size": len(data)}

    def manifest(self, weights: bytes = b"weights", **changes: object) -> bytes:
        """Serve a manifest of a small model and return its bytes."""
        value = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self.blob(b"{}"),
            "layers": [self.blob(weights)],
            **changes,
        }
        data = json.dumps(value).encode()
        self.answers["GET /v2/a/m/manifests/t"] = body(data)
        return data


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


not_found = body(b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"\\u001b[31mno"}]}', 404)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(pulling, "SECONDS_BETWEEN_TRIES", 0.0)
    server = Stub()
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_an_honest_stub_is_pulled_from(stub: Stub) -> None:
    stub.manifest()
    assert pull(plan_pull(stub.name)).path.read_bytes() == b"weights"


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [{"mediaType": MODEL, "digest": "sha256:../../../../etc/passwd", "size": 1}]},
        {"layers": [{"mediaType": MODEL, "digest": "sha256:" + "0" * 63 + "/", "size": 1}]},
        {"layers": [{"mediaType": MODEL, "digest": "sha256:" + "0" * 64, "size": -1}]},
        {"layers": [{"mediaType": MODEL, "digest": "sha256:" + "0" * 64, "size": 1 << 60}]},
        {"layers": [{"mediaType": MODEL, "digest": "sha256:" + "0" * 64, "size": True}]},
        {"layers": [{"digest": "sha256:" + "0" * 64, "size": 1}]},
        {"layers": {"a": 1}},
        {"layers": [None]},
        {"config": None},
        {"schemaVersion": 1},
        {"mediaType": "application/vnd.oci.image.index.v1+json"},
    ],
)
def test_lying_manifests_are_refused_before_a_byte_is_written(
    stub: Stub, changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    stub.manifest(**changes)
    assert run(["pull", str(stub.name)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "Traceback" not in err
    assert not library().blobs.exists()


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b"1" * (9 << 20)])
def test_what_is_no_manifest_is_refused(stub: Stub, data: bytes) -> None:
    stub.answers["GET /v2/a/m/manifests/t"] = body(data)
    with pytest.raises(DamagedError):
        plan_pull(stub.name)


def test_a_manifest_with_another_digest_than_announced_is_refused(stub: Stub) -> None:
    data = stub.manifest()
    stub.answers["GET /v2/a/m/manifests/t"] = body(data, Docker_Content_Digest="sha256:" + "0" * 64)
    with pytest.raises(DamagedError, match="do not have the digest that the registry names"):
        plan_pull(stub.name)


def test_a_layer_with_another_digest_is_refused(stub: Stub) -> None:
    stub.manifest()
    wrong = "sha256:" + "0" * 64
    stub.manifest(layers=[{"mediaType": MODEL, "digest": wrong, "size": 7}])
    stub.answers[f"GET /v2/a/m/blobs/{wrong}"] = body(b"weights")
    with pytest.raises(DamagedError, match=f"{wrong} arrived with the digest"):
        pull(plan_pull(stub.name))
    assert not [path for path in library().blobs.iterdir() if "0000" in path.name]


def test_a_model_larger_than_the_disk_is_refused_before_it_is_fetched(stub: Stub) -> None:
    stub.manifest(layers=[{"mediaType": MODEL, "digest": "sha256:" + "1" * 64, "size": 1 << 49}])
    with pytest.raises(StoreError, match="562,949,953,421,31"):
        plan_pull(stub.name)


def test_an_endless_body_stops_at_the_layers_size(stub: Stub) -> None:
    stub.manifest()
    digest = str(stub.blob(b"weights")["digest"])
    stub.answers[f"GET /v2/a/m/blobs/{digest}"] = body(b"weights and more" * 1000)
    with pytest.raises(DamagedError, match="sends more than 7 bytes"):
        pull(plan_pull(stub.name))


def test_a_registry_that_ignores_ranges_begins_anew_and_one_that_lies_is_refused(
    stub: Stub,
) -> None:
    stub.manifest(b"weights that are long")
    plan = plan_pull(stub.name)
    part = pulling.partial_path(library(), plan.manifest.layers[0])
    part.write_bytes(b"wrong")
    assert pull(plan).path.read_bytes() == b"weights that are long"
    plan = plan_pull(ModelName.parse(f"{stub.host}/a/m:t"))
    resolve(str(stub.name)).path.unlink()
    part.write_bytes(b"weights")
    digest = plan.manifest.layers[0].digest
    stub.answers[f"GET /v2/a/m/blobs/{digest}"] = body(b"that", 206, Content_Range="bytes 3-6/21")
    with pytest.raises(RegistryError, match="sends another range"):
        pull(plan_pull(stub.name))


@pytest.mark.parametrize(
    "location",
    ["http://example.com/blob", "ftp://example.com/x", "//example.com/x", "http://[", "/loop"],
)
def test_redirects_never_fall_back_to_plain_http_nor_go_on_for_ever(
    stub: Stub, location: str
) -> None:
    stub.answers["GET /v2/a/m/manifests/t"] = body(b"", 307, Location=location)
    stub.answers["GET /loop"] = body(b"", 307, Location="/loop")
    with pytest.raises(RegistryError, match=r"leads to|redirects|no address"):
        plan_pull(stub.name)


def test_redirects_on_this_machine_are_followed_without_credentials(stub: Stub) -> None:
    other = Stub()
    weights = str(stub.blob(b"weights")["digest"])
    stub.manifest()
    stub.answers[f"GET /v2/a/m/blobs/{weights}"] = body(
        b"", 307, Location=f"http://{other.host}/elsewhere?x=1"
    )
    other.answers["GET /elsewhere"] = body(b"weights")
    assert pull(plan_pull(stub.name)).path.read_bytes() == b"weights"
    assert other.asked == [("GET /elsewhere", None)]
    other.server.shutdown()
    other.server.server_close()


def test_an_outside_registry_may_not_lead_to_this_machine() -> None:
    with Registry(ModelName.parse("registry.example.com/a/m")) as registry:
        assert registry.base == "https://registry.example.com/v2/a/m"
        for address in ("http://localhost/x", "https://127.0.0.1/x", "https://[::1]/x"):
            with pytest.raises(RegistryError, match="leads to"):
                registry.url(address)
    for host in ("localhost:5000", "127.0.0.1:5000", "127.9.9.9"):
        with Registry(ModelName.parse(f"{host}/a/m")) as registry:
            assert registry.base.startswith("http://")
    with Registry(ModelName.parse("localhost.example.com/a/m")) as registry:
        assert registry.base.startswith("https://")


def test_a_token_is_fetched_where_the_registry_asks_for_one(
    stub: Stub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    secret = base64.b64encode(b"me:secret").decode()
    (home / "config.json").write_text(json.dumps({"auths": {stub.host: {"auth": secret}}}))
    data = stub.manifest()
    challenge = f'Bearer realm="http://{stub.host}/token",service="s",scope="repository:a/m:pull"'

    def guarded(request: BaseHTTPRequestHandler) -> None:
        known = request.headers.get("Authorization") == "Bearer the-token"
        (body(data) if known else body(b"", 401, WWW_Authenticate=challenge))(request)

    stub.answers["GET /v2/a/m/manifests/t"] = guarded
    stub.answers["GET /token"] = body(b'{"token": "the-token"}')
    assert pull(plan_pull(stub.name)).path.read_bytes() == b"weights"
    assert ("GET /token", f"Basic {secret}") in stub.asked
    stub.answers["GET /token"] = body(b"<html>", 403)
    with pytest.raises(RegistryError, match="gives no token"):
        plan_pull(stub.name)


@pytest.mark.parametrize("realm", ["http://[", "http://example.com/token", "\\x00", ""])
def test_a_realm_that_is_no_safe_address_is_refused(stub: Stub, realm: str) -> None:
    challenge = f'Bearer realm="{realm}"'
    stub.answers["GET /v2/a/m/manifests/t"] = body(b"", 401, WWW_Authenticate=challenge)
    with pytest.raises(RegistryError):
        plan_pull(stub.name)


def test_what_a_registry_says_reaches_the_terminal_without_control_codes(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pull", str(stub.name)]) == 2
    err = capsys.readouterr().err
    assert "MANIFEST_UNKNOWN" in err and "\x1b" not in err


class ResumingStub(Stub):
    """Keeps what arrived of a cut upload and says how far it came."""

    def __init__(self, cut_after: list[int]) -> None:
        super().__init__()
        self.cut_after = cut_after
        self.received = b""
        self.manifests: list[bytes] = []

    def serve_uploads(self, digest: str) -> None:
        where = "/v2/a/m/blobs/uploads/1"
        self.answers[f"HEAD /v2/a/m/blobs/{digest}"] = body(b"", 404)
        self.answers["POST /v2/a/m/blobs/uploads/"] = body(b"", 202, Location=where)
        self.answers[f"PATCH {where}"] = self.take
        self.answers[f"GET {where}"] = self.tell
        self.answers[f"PUT {where}"] = body(b"", 201)
        self.answers["PUT /v2/a/m/manifests/t"] = lambda request: (
            self.manifests.append(request.rfile.read(int(request.headers["Content-Length"]))),
            body(b"", 201)(request),
        )[-1]

    def tell(self, request: BaseHTTPRequestHandler) -> None:
        end = len(self.received) - 1
        body(b"", 204, Location="/v2/a/m/blobs/uploads/1", Range=f"0-{end}")(request)

    def take(self, request: BaseHTTPRequestHandler) -> None:
        left = int(request.headers["Content-Length"])
        assert request.headers["Content-Range"].startswith(f"{len(self.received)}-")
        if self.cut_after:
            self.received += request.rfile.read(min(self.cut_after.pop(0), left))
            request.close_connection = True
            return
        self.received += request.rfile.read(left)
        end = len(self.received) - 1
        body(b"", 202, Location="/v2/a/m/blobs/uploads/1", Range=f"0-{end}")(request)


def test_a_push_goes_on_inside_a_piece_where_the_registry_can() -> None:
    stub = ResumingStub(cut_after=[100_000, 250_000])
    weights = bytes(range(256)) * 4000
    published = publish("mine", [NewLayer(MODEL, weights)], config={})
    assert published.manifest is not None and published.digest is not None
    for layer in published.manifest.blobs:
        stub.answers[f"HEAD /v2/a/m/blobs/{layer.digest}"] = body(b"", 200)
    stub.serve_uploads(published.digest)
    sent: list[int] = []
    push(published, stub.name, advance=sent.append)
    assert stub.received == weights
    assert sum(sent) == published.manifest.size
    assert stub.manifests == [published.manifest.encode()]
    stub.server.shutdown()
    stub.server.server_close()


def test_a_push_needs_a_registry_and_a_stored_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("mine", [NewLayer(MODEL, b"x")], config={})
    assert run(["push", "mine", "other"]) == 2
    (tmp_path / "x.gguf").write_bytes(b"x")
    assert run(["push", str(tmp_path / "x.gguf"), "localhost:1/a/b"]) == 2
    assert "llamune cp" in capsys.readouterr().err
