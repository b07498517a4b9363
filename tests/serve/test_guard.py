"""The door: foreign pages, bad hosts, missing keys, and bodies too large or too slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from llamune.serve.guard import Guard, GuardSettings
from llamune.serve.keys import Key

KEY = Key(1, "alice", "lln_abcd", 0, None, None, None)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what came in."""
    request = Request(scope, receive)
    body = await request.body()
    key = request.state.key
    await JSONResponse({"bytes": len(body), "key": key and key.name})(scope, receive, send)


def client(**settings: Any) -> httpx.AsyncClient:
    """Return a client of a guarded application; without keys unless `find_key` is given."""
    app = Guard(echo, GuardSettings(**{"find_key": None, **settings}))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:11435"
    )


def get(path: str = "/v1/models", headers: dict[str, str] | None = None, **settings: Any) -> Any:
    """Ask once."""

    async def ask() -> httpx.Response:
        async with client(**settings) as door:
            return await door.get(path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:11435", "[::1]:1", "LOCALHOST"])
def test_loopback_names_are_let_in(host: str) -> None:
    assert get(headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "192.168.0.7", "127.0.0.1.evil.example", ""])
def test_other_hosts_are_not(host: str) -> None:
    answer = get(headers={"Host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"


def test_a_host_does_not_matter_where_keys_are_asked_for() -> None:
    headers = {"Host": "models.example", "Authorization": "Bearer lln_x"}
    answer = get(headers=headers, find_key=lambda _: KEY)
    assert answer.json() == {"bytes": 0, "key": "alice"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://192.168.0.7"])
def test_pages_of_foreign_origins_are_refused(origin: str) -> None:
    assert get(headers={"Origin": origin}).status_code == 403


def test_pages_of_named_origins_are_let_in() -> None:
    allowed = frozenset({"https://app.example"})
    assert get(headers={"Origin": "https://app.example"}, origins=allowed).status_code == 200
    assert get(headers={"Origin": "http://localhost:3000"}).status_code == 200


@pytest.mark.parametrize("sent", [None, "lln_x", "Basic lln_x", "Bearer ", "Bearer lln_wrong"])
def test_a_missing_or_wrong_key_is_401(sent: str | None) -> None:
    headers = {} if sent is None else {"Authorization": sent}
    answer = get(headers=headers, find_key=lambda key: KEY if key == "lln_right" else None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_errors_take_the_shape_of_the_api_they_belong_to() -> None:
    headers = {"Host": "evil.example"}
    assert get("/api/tags", headers).json() == {
        "error": "this server answers to loopback names only"
    }
    assert set(get("/v1/models", headers).json()["error"]) == {"message", "type", "param", "code"}


def post(body: AsyncIterator[bytes] | bytes, **settings: Any) -> httpx.Response:
    """Send a body."""

    async def ask() -> httpx.Response:
        async with client(**settings) as door:
            return await door.post("/v1/completions", content=body)

    return asyncio.run(ask())


async def pieces(*parts: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    """Give a body whose length nobody knows beforehand."""
    for part in parts:
        await asyncio.sleep(pause)
        yield part


def test_a_body_over_the_limit_is_413_whether_or_not_it_says_so() -> None:
    assert post(b"x" * 11, max_body_bytes=10).status_code == 413
    assert post(pieces(b"x" * 6, b"x" * 5), max_body_bytes=10).status_code == 413
    assert post(b"x" * 10, max_body_bytes=10).json()["bytes"] == 10


def test_a_body_that_stalls_is_408() -> None:
    answer = post(pieces(b"x", b"y", pause=0.3), idle_seconds=0.05)
    assert answer.status_code == 408
    assert answer.json()["error"]["message"] == "the body came too slowly"
