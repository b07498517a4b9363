"""Both APIs over a fake engine: shapes, errors, disconnects, counting, limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine as Database

from llamune import serve
from llamune.engine import Conversation
from llamune.files import sha256_of
from llamune.serve import app as app_module
from llamune.store import Adapter, Model, ModelName, library, model_of_name
from tests.concurrency import PATIENCE_SECONDS
from tests.serve.fakes import FakeEngine, tiny_gguf, tiny_library

CHAT = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Let the application open fake engines and return those it opened."""
    opened: list[FakeEngine] = []

    def open_fake(model: Model, *, adapters: Sequence[Adapter], **_: Any) -> FakeEngine:
        opened.append(FakeEngine())
        return opened[-1]

    monkeypatch.setattr(app_module, "open_engine", open_fake)
    return opened


@asynccontextmanager
async def running(
    database: Database, *, with_keys: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the application."""
    app = serve.create_app(library(), database, with_keys=with_keys)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def models(tmp_path: Path) -> None:
    """Fill the library."""
    tiny_library(library(), tmp_path)


@pytest.fixture
def counts() -> Database:
    """Return an empty database."""
    return serve.open_database()


def ask(database: Database, method: str, path: str, **options: Any) -> httpx.Response:
    """Send one request to a new application."""

    async def go() -> httpx.Response:
        async with running(database) as client:
            return await client.request(method, path, **options)

    return asyncio.run(go())


@pytest.mark.usefixtures("models", "engines")
def test_chat_answers_whole_and_in_pieces(counts: Database) -> None:
    whole = ask(counts, "POST", "/v1/chat/completions", json=CHAT).json()
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "one two three"}
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    text = ask(counts, "POST", "/v1/chat/completions", json=body).text
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == (
        "one two three"
    )
    assert chunks[-1]["usage"]["total_tokens"] == 8
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.usefixtures("models", "engines")
def test_ollama_answers_whole_and_line_by_line(counts: Database) -> None:
    whole = ask(counts, "POST", "/api/chat", json={**CHAT, "stream": False}).json()
    assert whole["message"] == {"role": "assistant", "content": "one two three"}
    assert (whole["done"], whole["done_reason"], whole["eval_count"]) == (True, "stop", 3)
    lines = ask(counts, "POST", "/api/generate", json={"model": "a", "prompt": "hi"}).text
    parts = [json.loads(line) for line in lines.splitlines()]
    assert "".join(part["response"] for part in parts) == "one two three"
    assert [part["done"] for part in parts] == [False, False, False, True]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "nope"}, 404),
        ("/v1/chat/completions", {**CHAT, "model": "../../etc/passwd"}, 404),
        ("/v1/chat/completions", {"model": "a", "messages": []}, 400),
        ("/v1/chat/completions", {**CHAT, "temperature": "hot"}, 400),
        ("/v1/chat/completions", {**CHAT, "temperature": -1}, 400),
        ("/v1/chat/completions", {**CHAT, "n": 2}, 400),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 0}, 400),
        (
            "/v1/chat/completions",
            {"model": "a", "messages": [{"role": "user", "content": "too long"}]},
            400,
        ),
        ("/v1/completions", {"model": "a", "prompt": "x", "suffix": "y"}, 400),
        ("/v1/nothing", {}, 404),
        ("/api/chat", {**CHAT, "model": "nope"}, 404),
        ("/api/generate", {"model": "a", "prompt": "x", "images": ["aGk="]}, 400),
        ("/api/create", {"model": "new", "files": {}}, 400),
        ("/api/create", {"model": "new", "files": {"a": "sha256:../../x"}}, 400),
        ("/api/create", {"model": "../new", "from": "base"}, 400),
        ("/api/show", {}, 400),
    ],
)
@pytest.mark.usefixtures("models", "engines")
def test_bad_requests_get_the_right_status_in_the_apis_own_shape(
    counts: Database, path: str, body: dict[str, Any], status: int
) -> None:
    answer = ask(counts, "POST", path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    if path.startswith("/v1"):
        assert error["message"]
    else:
        assert isinstance(error, str)
    assert "Traceback" not in answer.text
    assert str(library().root) not in answer.text


@pytest.mark.usefixtures("models")
def test_a_client_that_leaves_ends_the_work_and_is_counted(
    counts: Database, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "endless", True)

    async def leave() -> None:
        app = serve.create_app(library(), counts, with_keys=False)
        body = json.dumps({**CHAT, "stream": True}).encode()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "http_version": "1.1",
            "scheme": "http",
        }
        arrived = asyncio.Queue[dict[str, Any]]()
        arrived.put_nowait({"type": "http.request", "body": body, "more_body": False})

        async def send(message: dict[str, Any]) -> None:
            if b'"content": "one"' in message.get("body", b""):
                arrived.put_nowait({"type": "http.disconnect"})

        await app(scope, arrived.get, send)

    asyncio.run(leave())
    assert engines[0].stopped.wait(PATIENCE_SECONDS)
    (total,) = serve.usage_by(counts, [])
    assert total.requests == 1
    assert total.completion_tokens >= 1


@pytest.mark.usefixtures("models", "engines")
def test_each_key_is_counted_and_held_to_its_limits(counts: Database) -> None:
    key = serve.create_key(counts, "alice", requests_per_minute=2)
    small = serve.create_key(counts, "bob", tokens_per_minute=8)

    async def use() -> list[int]:
        async with running(counts, with_keys=True) as client:
            statuses = []
            for sent in (key, key, key, small, small):
                headers = {"Authorization": f"Bearer {sent}"}
                answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
                statuses.append(answer.status_code)
            assert answer.headers["retry-after"] == "60"
            return statuses

    assert asyncio.run(use()) == [200, 200, 429, 200, 429]
    rows = serve.usage_by(counts, ["key", "model"])
    assert [(row.group, row.requests, row.completion_tokens) for row in rows] == [
        (("alice", "a:latest"), 2, 6),
        (("bob", "a:latest"), 1, 3),
    ]


@pytest.mark.usefixtures("models", "engines")
def test_models_are_listed_shown_copied_made_and_removed(counts: Database, tmp_path: Path) -> None:
    async def use() -> None:
        async with running(counts) as client:
            names = [m["id"] for m in (await client.get("/v1/models")).json()["data"]]
            assert names == ["a:latest", "b:latest", "base:latest"]
            shown = (await client.post("/api/show", json={"model": "base"})).json()
            assert shown["model_info"]["general.architecture"] == "llama"
            assert "general.name" not in shown["model_info"]
            copy = {"source": "a", "destination": "c"}
            assert (await client.post("/api/copy", json=copy)).status_code == 200
            data = tiny_gguf(tmp_path, "new").read_bytes()
            digest = await sent(client, data)
            made = {"model": "new", "files": {"new.gguf": digest}, "system": "Be brief."}
            assert (await client.post("/api/create", json=made)).text.endswith(
                '{"status": "success"}\n'
            )
            shown = (await client.post("/api/show", json={"model": "new"})).json()
            assert shown["system"] == "Be brief."
            gone = await client.request("DELETE", "/api/delete", json={"model": "c"})
            assert gone.status_code == 200
            tags = [m["name"] for m in (await client.get("/api/tags")).json()["models"]]
            assert tags == ["a:latest", "b:latest", "base:latest", "new:latest"]

    async def sent(client: httpx.AsyncClient, data: bytes) -> str:
        import hashlib

        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert (await client.head(f"/api/blobs/{digest}")).status_code == 404
        wrong = await client.post(f"/api/blobs/{digest}", content=data + b"x")
        assert wrong.status_code == 400
        assert (await client.head(f"/api/blobs/{digest}")).status_code == 404
        assert (await client.post(f"/api/blobs/{digest}", content=data)).status_code == 201
        assert (await client.post(f"/api/blobs/{digest}", content=data)).status_code == 200
        return digest

    asyncio.run(use())


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.mark.usefixtures("models")
def test_tools_and_the_choice_among_them_reach_the_engine(
    counts: Database, engines: list[FakeEngine]
) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    for choice, expected in (("required", "required"), (named, "weather"), (None, None)):
        body = {**CHAT, "tools": [WEATHER], "tool_choice": choice}
        assert ask(counts, "POST", "/v1/chat/completions", json=body).status_code == 200
        asked = engines[-1].asked[-1]
        assert isinstance(asked, Conversation)
        assert (asked.tools, asked.tool_choice) == ((WEATHER,), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"function": {"name": ""}}]},
        {"tools": [WEATHER], "tool_choice": "always"},
        {"tools": [WEATHER], "tool_choice": {"type": "function"}},
    ],
)
@pytest.mark.usefixtures("models", "engines")
def test_malformed_tools_are_refused(counts: Database, change: dict[str, Any]) -> None:
    answer = ask(counts, "POST", "/v1/chat/completions", json={**CHAT, **change})
    assert answer.status_code == 400
    assert "tool" in answer.json()["error"]["message"]


@pytest.mark.usefixtures("models", "engines")
def test_an_adapter_of_another_base_is_refused(counts: Database, tmp_path: Path) -> None:
    base = library().blob_path(str(model_of_name(library(), ModelName.parse("base")).digest))
    fitting = tiny_gguf(tmp_path, "fits", kind="adapter", base=f"sha256:{sha256_of(base)}")
    foreign = tiny_gguf(tmp_path, "foreign", kind="adapter", base="sha256:" + "0" * 64)
    for path, status in ((fitting, 200), (foreign, 400)):
        digest = library().add_blob(path)
        made = {"model": "new", "from": "base", "adapters": {path.name: digest}, "stream": False}
        answer = ask(counts, "POST", "/api/create", json=made)
        assert answer.status_code == status, answer.text
    assert "another base" in answer.json()["error"]


@pytest.mark.parametrize("parameters", [{"num_ctx": "many"}, {"num_predict": "x"}, {"top_k": -1}])
@pytest.mark.usefixtures("models", "engines")
def test_parameters_that_no_request_could_use_are_refused(
    counts: Database, parameters: dict[str, Any]
) -> None:
    made = {"model": "new", "from": "base", "parameters": parameters}
    assert ask(counts, "POST", "/api/create", json=made).status_code == 400


@pytest.mark.usefixtures("models", "engines")
def test_a_model_that_does_not_load_for_scoring_is_422(counts: Database) -> None:
    body = {"model": "a", "prompt": "x", "echo": True, "logprobs": 1, "max_tokens": 0}
    assert ask(counts, "POST", "/v1/completions", json=body).status_code == 422


def test_a_bad_digest_never_becomes_a_path(counts: Database) -> None:
    for digest in ("sha256:" + "0" * 63, "sha256:..%2f..%2fx", "md5:" + "0" * 32):
        assert ask(counts, "POST", f"/api/blobs/{digest}", content=b"x").status_code in (400, 404)


@pytest.mark.usefixtures("models", "engines")
def test_a_fault_of_ours_tells_nothing_of_the_inside(
    counts: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret path /home/alice")

    monkeypatch.setattr(FakeEngine, "push", fail)
    answer = ask(counts, "POST", "/v1/chat/completions", json=CHAT)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"


@pytest.mark.usefixtures("models", "engines")
def test_embeddings_in_both_apis(counts: Database) -> None:
    openai = ask(counts, "POST", "/v1/embeddings", json={"model": "a", "input": ["x", "y"]}).json()
    assert [entry["embedding"] for entry in openai["data"]] == [[0.6, 0.8, 0.0]] * 2
    assert openai["usage"]["total_tokens"] == 2
    ollama = ask(
        counts, "POST", "/api/embed", json={"model": "a", "input": "x", "dimensions": 1}
    ).json()
    assert ollama["embeddings"] == [[1.0]]
