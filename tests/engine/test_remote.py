"""Engines elsewhere: OpenAI's API against llama.cpp's own server, Ollama's against a recording."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llamune.engine import (
    EmbeddedEngine,
    EngineError,
    GenerateOptions,
    OllamaEngine,
    OpenAiEngine,
    open_engine,
    open_remote,
)
from llamune.engine.remote import ollama_address
from llamune.errors import UnsupportedError
from llamune.store import resolve
from tests.concurrency import serving

GREEDY = GenerateOptions(max_tokens=8, temperature=0)
QUESTION = [{"role": "user", "content": "Tell me a story about a fox."}]


@pytest.fixture(scope="module")
def local(starter_path: Path) -> Iterator[EmbeddedEngine]:
    with open_engine(resolve(str(starter_path)), n_ctx=512, n_threads=1) as engine:
        yield engine


def test_openai_gives_the_same_answer_as_the_embedded_engine(
    local: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", local._server._key)
    with OpenAiEngine("any", f"{local.address}/v1") as remote:
        answer = remote.answer(QUESTION, GREEDY)
        assert answer.text == local.answer(QUESTION, GREEDY).text
        assert (answer.n_answer_tokens, answer.finish_reason) == (8, "length")
        raw = "".join(piece.text for piece in remote.generate("Once upon", GREEDY))
        assert raw == "".join(piece.text for piece in local.generate("Once upon", GREEDY))
        options = GenerateOptions(max_tokens=1, temperature=0, n_log_probabilities=2)
        (token,) = remote.answer(QUESTION, options).log_probabilities
        assert len(token.alternatives) == 2


def test_a_refused_key_is_told(local: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with (
        OpenAiEngine("any", f"{local.address}/v1") as remote,
        pytest.raises(EngineError, match="401: Invalid API Key"),
    ):
        remote.answer(QUESTION, GREEDY)


def test_nobody_there_is_told():
    with (
        OpenAiEngine("any", "http://127.0.0.1:9/v1") as remote,
        pytest.raises(EngineError, match=r"127\.0\.0\.1:9") as error,
    ):
        remote.answer(QUESTION, GREEDY)
    assert error.value.hint == "is the server running?"


class Recorded(BaseHTTPRequestHandler):
    """Answers as Ollama 0.12 does and keeps what it was asked."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        if body["model"] == "missing":
            self.reply(404, [{"error": "model 'missing' not found"}])
        elif self.path == "/api/embed":
            self.reply(200, [{"embeddings": [[1.0, 0.0]], "prompt_eval_count": 3}])
        else:
            key = {"/api/chat": "message"}.get(self.path)
            words = ["Once", " there", ""]
            lines: list[dict[str, Any]] = [
                {"message": {"role": "assistant", "content": word}} if key else {"response": word}
                for word in words
            ]
            lines[-1] |= {
                "done": True,
                "done_reason": "stop",
                "prompt_eval_count": 9,
                "eval_count": 2,
                "prompt_eval_duration": 500_000_000,
                "eval_duration": 250_000_000,
            }
            self.reply(200, lines)

    def reply(self, status: int, lines: list[dict[str, Any]]) -> None:
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def ollama() -> Iterator[str]:
    Recorded.asked.clear()
    with serving(Recorded) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_ollama_answers_in_its_own_api(ollama: str):
    options = GenerateOptions(max_tokens=8, temperature=0, stop=("END",), json_schema={})
    with OllamaEngine("gemma2:9b", ollama) as remote:
        answer = remote.answer(QUESTION, options)
        assert next(piece.text for piece in remote.generate("Once", options)) == "Once"
        assert remote.embed(["x"]).vectors == [[1.0, 0.0]]
    assert (answer.text, answer.n_prompt_tokens, answer.n_answer_tokens) == ("Once there", 9, 2)
    assert answer.tokens_per_second == 8
    (chat_path, chat), (generate_path, generate), _ = Recorded.asked
    assert (chat_path, generate_path) == ("/api/chat", "/api/generate")
    assert chat["options"] == {"num_predict": 8, "temperature": 0, "stop": ["END"]}
    assert (chat["format"], generate["raw"], generate["prompt"]) == ("json", True, "Once")


def test_what_ollama_refuses_is_told(ollama: str):
    with (
        OllamaEngine("missing", ollama) as remote,
        pytest.raises(EngineError, match="404: model 'missing' not found"),
    ):
        remote.answer(QUESTION, GREEDY)


def test_what_a_remote_engine_cannot_do_is_refused_by_name(ollama: str):
    with OllamaEngine("gemma2:9b", ollama) as remote:
        with pytest.raises(UnsupportedError, match="token ids"):
            list(remote.generate([1, 2], GREEDY))
        with pytest.raises(UnsupportedError, match="adapters"):
            list(remote.chat(QUESTION, GREEDY, scales={"a": 1.0}))
    with pytest.raises(EngineError, match="telegraph"):
        open_remote("telegraph", "x")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", "http://127.0.0.1:11434"),
        ("localhost", "http://localhost:11434"),
        ("10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("https://models.example:443/", "https://models.example:443"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
    ],
)
def test_where_ollama_listens(host: str, address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert ollama_address() == address
