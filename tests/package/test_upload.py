"""Uploading a package: to a stand-in of the hub on loopback, through the real client library."""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from llamune.cli._main import run
from llamune.errors import LlamuneError
from llamune.jobs import upload
from llamune.package import PackageError
from tests.concurrency import serving
from tests.package.test_package import base, contents_for, weights, whole  # noqa: F401  fixtures


class Hub(BaseHTTPRequestHandler):
    """The part of a model hub's HTTP interface that an upload of small files needs."""

    def answer(self, value: Any, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server: Any = self.server
        server.paths.append(self.path)
        if server.refuses:
            self.answer({"error": "no rights here"}, 403)
        elif self.path.endswith("/create"):
            self.answer({"url": f"{server.url}/me/mine", "name": "me/mine"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(
                {"files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]}
            )  # fmt: skip
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    server.files[value["path"]] = base64.b64decode(value["content"])
            self.answer(
                {"commitUrl": f"{server.url}/me/mine/commit/{'a' * 40}", "commitOid": "a" * 40,
                 "hookOutput": "", "success": True}
            )  # fmt: skip
        else:
            self.answer({})

    def do_GET(self) -> None:
        self.answer({"id": "me/mine", "siblings": [], "sha": "a" * 40})

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any
    with serving(Hub) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.files, server.paths, server.refuses = {}, [], False
        client = importlib.import_module("huggingface_hub")
        real = client.HfApi
        monkeypatch.setattr(client, "HfApi", lambda: real(endpoint=server.url, token="hf_test"))
        yield server


def test_every_file_arrives_as_it_is(whole: Path, hub: Any) -> None:  # noqa: F811
    assert run(["upload", str(whole), "me/mine"]) == 0
    sent = {p.relative_to(whole).as_posix(): p.read_bytes() for p in whole.rglob("*")
            if p.is_file()}  # fmt: skip
    assert hub.files == sent


def test_a_dry_run_sends_nothing(whole: Path, hub: Any, capsys: Any) -> None:  # noqa: F811
    assert run(["upload", str(whole), "me/mine", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "adapter.gguf" in captured.err
    assert "nothing was sent" in captured.err
    assert hub.paths == []


def test_a_damaged_package_and_a_wrong_name_do_not_go(whole: Path, hub: Any) -> None:  # noqa: F811
    with pytest.raises(LlamuneError, match="no repository"):
        upload(whole, "mine")
    (whole / "NOTICE").write_text("mine")
    with pytest.raises(PackageError, match="NOTICE"):
        upload(whole, "me/mine")
    assert hub.paths == []


def test_a_refusal_of_the_hub_is_one_clear_line(whole: Path, hub: Any) -> None:  # noqa: F811
    hub.refuses = True
    with pytest.raises(LlamuneError, match="did not take it") as caught:
        upload(whole, "me/mine")
    assert "log in" in str(caught.value.hint)
