"""`llamune license`: exit codes, JSON, and both languages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from llamune.cli._main import run
from llamune.gguf import Entry, NewTensor, quant_type, write_gguf


def model_file(path: Path, **keys: str) -> Path:
    metadata = {"general.architecture": Entry.of("llama")}
    metadata |= {key.replace("__", "."): Entry.of(value) for key, value in keys.items()}
    tensor = NewTensor(
        "token_embd.weight", (1, 32), quant_type("F32"),
        lambda: [np.zeros((1, 32), np.float32).tobytes()],
    )  # fmt: skip
    write_gguf(path, metadata=metadata, tensors=[tensor])
    return path


@pytest.fixture
def apache(tmp_path: Path) -> str:
    return str(model_file(tmp_path / "apache.gguf", general__license="apache-2.0"))


@pytest.fixture
def mute(tmp_path: Path) -> str:
    return str(model_file(tmp_path / "mute.gguf"))


def test_the_listing_exits_0_whatever_it_lists(
    apache: str, mute: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["license", apache]) == 0
    out = capsys.readouterr().out
    assert "Apache-2.0 · Apache License 2.0" in out
    assert "4(a)" in out
    assert out.count("legal advice") == 1
    assert run(["license", mute, "--lang", "ja"]) == 0
    assert "未確認" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("act", "code"),
    [("use", 0), ("share-merged", 0), ("sell-adapter", 0), ("train-on-outputs", 0), ("fly", 2)],
)
def test_an_act_is_answered_by_the_exit_code(apache: str, act: str, code: int) -> None:
    assert run(["license", apache, "--act", act]) == code


def test_no_and_not_confirmed_exit_1(
    mute: str, apache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["license", mute, "--act", "use"]) == 1
    assert run(["license", mute, "--license", "mit", "--act", "sell-merged"]) == 0
    assert run(["license", mute, "--license", "llama3", "--act", "train-on-outputs"]) == 1
    assert run(["license", apache, "--data-license", "cc-by-nc-4.0", "--act", "sell-merged"]) == 1
    assert "not confirmed" in capsys.readouterr().err


def test_the_json_says_every_act_with_its_clauses(
    apache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["license", apache, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["licences"][0]["id"] == "Apache-2.0"
    assert report["acts"]["sell-merged"]["clauses"]["Apache-2.0"]["clause"] == "4"
    assert {duty["kind"] for duty in report["duties"]} >= {"licence-text", "state-changes"}
    assert report["problems"] == []


def test_a_hostile_name_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_file(tmp_path / "m.gguf", general__license="evil\x1b[2J")
    assert run(["license", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_it_starts_without_torch(apache: str) -> None:
    import subprocess

    code = (
        "import sys; from llamune.cli._main import run; "
        f"run(['license', {apache!r}]); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0
