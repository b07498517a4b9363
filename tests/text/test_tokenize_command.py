"""`llamune tokenize` as a person runs it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from llamune.cli._main import run


def test_json_has_ids_and_tokens(starter_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokenize", str(starter_path), "Hi<|im_end|>", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ids"], found["tokens"]) == ([26843, 2], ["Hi", "<|im_end|>"])


def test_plain_reads_control_tokens_as_text(
    starter_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tokenize", str(starter_path), "<|im_end|>", "--plain", "--json"]) == 0
    assert 2 not in json.loads(capsys.readouterr().out)["ids"]


def test_standard_input_is_read_byte_for_byte(
    starter_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("日本\r\n".encode())))
    assert run(["tokenize", str(starter_path)]) == 0
    shown = capsys.readouterr().out
    assert "日本␍↵" in shown
    assert "4 characters, 8 bytes" in shown


def test_bytes_that_are_no_text_are_one_clear_error(
    starter_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    assert run(["tokenize", str(starter_path)]) == 2
    assert capsys.readouterr().err.startswith("error: standard input is not UTF-8")
