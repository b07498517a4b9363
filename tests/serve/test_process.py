"""The server as a process, over real sockets: clients that leave, stall, lie, and `kill -9`."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from llamune import serve
from llamune.store import publish_model
from tests.concurrency import PATIENCE_SECONDS, wait_until
from tests.serve.real import Running, running_server

CHAT: dict[str, Any] = {
    "model": "starter",
    "messages": [{"role": "user", "content": "Tell a long story about a river."}],
    "max_tokens": 400,
    "temperature": 0,
}
SHORT = {**CHAT, "max_tokens": 3}


@pytest.fixture(scope="module")
def keyed(
    tmp_path_factory: pytest.TempPathFactory, starter_path: Path
) -> Iterator[tuple[Running, str]]:
    """Run a server that asks for keys; yields it and a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMUNE_HOME", str(tmp_path_factory.mktemp("keyed")))
        publish_model("starter", starter_path)
        database = serve.open_database()
        key = serve.create_key(database, "alice")
        database.dispose()
        with running_server("--context", "512", "--keys") as server:
            yield server, key


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(method: str, url: str, **options: Any) -> httpx.Response:
    """Send a request and wait for its answer, on a busy machine also."""
    return httpx.request(method, url, timeout=PATIENCE_SECONDS, **options)


def counted(server: Running) -> list[tuple[int, int]]:
    """Return requests and answer tokens in all, as the server's own database has them."""
    database = serve.open_database(f"sqlite:///{server.environment['LLAMUNE_HOME']}/serve.sqlite3")
    try:
        return [(row.requests, row.completion_tokens) for row in serve.usage_by(database, [])]
    finally:
        database.dispose()


def test_without_a_key_nothing_is_told(keyed: tuple[Running, str]) -> None:
    server, _ = keyed
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/api/tags"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("POST", "/v1/chat/completions"),
        ("DELETE", "/api/delete"),
        ("GET", "/no/such/path"),
    ):
        answer = ask(method, server.url + path, headers=headers("lln_wrong"))
        assert answer.status_code == 401, path
        assert "starter" not in answer.text


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "%2e%2e%2fx"])
def test_names_like_paths_are_unknown_models(keyed: tuple[Running, str], name: str) -> None:
    server, key = keyed
    asked = ask(
        "POST", f"{server.url}/v1/chat/completions", json={**SHORT, "model": name},
        headers=headers(key),
    )  # fmt: skip
    assert asked.status_code == 404
    assert asked.json()["error"]["code"] == "model_not_found"
    shown = ask("POST", f"{server.url}/api/show", json={"model": name}, headers=headers(key))
    assert (shown.status_code, list(shown.json())) == (404, ["error"])
    found = ask("GET", f"{server.url}/v1/models/{name}", headers=headers(key))
    assert found.status_code == 404


def test_a_prompt_over_the_context_is_400(keyed: tuple[Running, str]) -> None:
    server, key = keyed
    long = {**SHORT, "messages": [{"role": "user", "content": "word " * 2000}]}
    for path in ("/v1/chat/completions", "/api/chat"):
        answer = ask("POST", server.url + path, json=long, headers=headers(key))
        assert answer.status_code == 400, answer.text


def test_a_body_over_the_limit_is_413_before_it_is_sent(keyed: tuple[Running, str]) -> None:
    server, key = keyed
    lines = [f"Authorization: Bearer {key}", f"Content-Length: {33 << 20}"]
    assert raw(server, lines).startswith(b"HTTP/1.1 413 ")


@pytest.mark.slow
def test_a_client_that_stalls_is_answered_408(keyed: tuple[Running, str]) -> None:
    server, key = keyed
    lines = [f"Authorization: Bearer {key}", "Content-Length: 100"]
    assert raw(server, lines, body=b"{").startswith(b"HTTP/1.1 408 ")


def raw(server: Running, lines: list[str], *, body: bytes = b"") -> bytes:
    """Send a request whose body does not come whole, and return what is answered."""
    where = urlsplit(server.url)
    place = (where.hostname, where.port)
    with socket.create_connection(place, timeout=PATIENCE_SECONDS) as connection:
        head = ["POST /v1/completions HTTP/1.1", f"Host: {where.netloc}", *lines]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        return connection.recv(4096)


def test_a_client_that_leaves_stops_the_answer(keyed: tuple[Running, str]) -> None:
    server, key = keyed
    before = counted(server)
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream(
        "POST", url, json={**CHAT, "stream": True}, headers=headers(key), timeout=PATIENCE_SECONDS
    ) as answer:
        for line in answer.iter_lines():
            if '"content": "' in line and '"content": ""' not in line:
                break
    wait_until(lambda: counted(server) != before, pause=0.2)
    ((requests, tokens),) = counted(server)
    earlier = before[0] if before else (0, 0)
    assert requests == earlier[0] + 1
    assert 1 <= tokens - earlier[1] < 200  # of 400: it did not go on for nobody


@pytest.mark.slow
def test_what_was_finished_is_counted_once_through_kill_9(
    tmp_path: Path, starter_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMUNE_HOME", str(tmp_path / "home"))
    publish_model("starter", starter_path)
    n_tokens = 0
    for _ in range(2):  # the second server goes on with the first one's counts
        with running_server("--context", "512") as server:
            url = f"{server.url}/v1/chat/completions"
            for _ in range(3):
                answer = ask("POST", url, json=SHORT)
                n_tokens += answer.json()["usage"]["completion_tokens"]
            with httpx.stream(
                "POST", url, json={**CHAT, "stream": True}, timeout=PATIENCE_SECONDS
            ) as answer:
                chunks = (json.loads(x[6:]) for x in answer.iter_lines() if x.startswith("data:"))
                assert any(chunk["choices"][0]["delta"].get("content") for chunk in chunks)
                server.process.send_signal(signal.SIGKILL)
                server.process.wait(timeout=PATIENCE_SECONDS)
        assert counted(server)[0][1] == n_tokens
    assert counted(server) == [(6, n_tokens)]
