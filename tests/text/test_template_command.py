"""`llamune template` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.store import publish
from llamune.store.manifests import NewLayer
from tests.text.go_cases import TEMPLATES
from tests.text.vocabularies import CONTROL, byte_pair_keys, write_vocabulary

IMAGE = "application/vnd.ollama.image."


@pytest.fixture
def layered(tmp_path: Path) -> str:
    """Publish a vocabulary with layers of its own, and return its name."""
    special = [("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL)]
    keys = byte_pair_keys("qwen2", texts=["hello"], n_merges=2, special=special)
    keys["tokenizer.chat_template"] = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    publish(
        "layered:1",
        [
            NewLayer(f"{IMAGE}model", write_vocabulary(tmp_path / "x.gguf", keys)),
            NewLayer(f"{IMAGE}template", TEMPLATES["chatml"].encode()),
            NewLayer(f"{IMAGE}system", b"Be kind."),
            NewLayer(f"{IMAGE}params", b'{"stop": ["<|im_end|>"]}'),
        ],
        config={"model_format": "gguf", "model_family": "llama"},
    )
    return "layered:1"


def test_shows_where_the_text_comes_from(
    starter_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["template", str(starter_path)]) == 0
    shown = capsys.readouterr().out
    assert "tokenizer.chat_template (Jinja)" in shown
    assert "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>" in shown


def test_tokens_say_how_many_are_trained(
    starter_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["template", str(starter_path), "--tokens"]) == 0
    assert "32 trained" in capsys.readouterr().out


def test_a_record_of_a_file_is_shown(
    starter_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "d.json"
    data.write_text(json.dumps([{"instruction": "Eins?", "output": "Zwei."}] * 2))
    assert run(["template", str(starter_path), "--data", str(data), "--record", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "Eins?" in found["text"]
    assert len(found["ids"]) == len(found["trained"])
    assert run(["template", str(starter_path), "--data", str(data), "--record", "3"]) == 2
    assert "no record 3" in capsys.readouterr().err


def test_layers_are_named_and_compared_with_the_file(
    layered: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["template", layered]) == 0
    shown = capsys.readouterr().out
    assert "TEMPLATE layer (Go)" in shown
    assert "the SYSTEM layer goes before" in shown
    assert "the file's own template" in shown


def test_two_models_are_compared(
    layered: str, starter_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["template", str(starter_path), "--against", str(starter_path)]) == 0
    assert "the same tokens" in capsys.readouterr().out
    assert run(["template", layered, "--against", str(starter_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]


def test_the_template_itself(starter_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["template", str(starter_path), "--source"]) == 0
    assert capsys.readouterr().out.startswith("{% for message in messages %}")
