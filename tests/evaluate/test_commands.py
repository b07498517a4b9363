"""`prove`, `eval`, `scores`, `compare` as a person runs them, on the starter."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import pytest

from llamune.cli._main import run

QUESTIONS = [
    {"question": "What is the capital of Japan?", "answer": "Tokyo", "metric": "contains"},
    {"question": "What is the capital of France?", "answer": "Berlin", "metric": "contains"},
]


@pytest.fixture
def test_file(tmp_path: Path) -> Path:
    path = tmp_path / "capitals.json"
    path.write_text(json.dumps(QUESTIONS))
    return path


def test_eval_scores_keeps_and_gates(
    starter_path: Path,
    test_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    asked = ["eval", str(starter_path), "--data", str(test_file), "--max-tokens", "12"]
    asked += ["--threads", "1"]
    page = tmp_path / "page.html"
    assert run([*asked, "--show", "wrong", "--html", str(page), "--lang", "ja"]) == 0
    out, err = capsys.readouterr()
    assert "0.500  [" in out
    assert "expected: Berlin" in out
    assert "expected: Tokyo" not in out
    assert str(page) in err
    assert '<html lang="ja">' in page.read_text()
    assert run([*asked, "--threshold", "0.5"]) == 0
    assert run([*asked, "--threshold", "0.5", "--strict"]) == 1
    assert run([*asked, "--threshold", "0.9"]) == 1
    capsys.readouterr()
    assert run([*asked, "--json", "--metric", "bits-per-byte"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["score"]["higher_is_better"] is False
    right, wrong = (row["score"] for row in found["items"])
    assert right < wrong  # Tokyo is likelier than Berlin
    assert run(["scores", str(starter_path), "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert [entry["score"]["metric"] for entry in kept] == ["contains"] * 4 + ["bits-per-byte"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere.json"], "nowhere.json"),
        (["--data", "{file}", "--metric", "bleu"], "bleu"),
        (["--data", "{file}", "--metric", "judge"], "--judge"),
        (["--data", "{file}", "--judge", "starter", "--rubric", "nowhere.txt"], "nowhere.txt"),
        (["--data", "{file}", "--forgetting"], "--baseline"),
        (["--data", "{file}", "--show", "none"], "wrong or all"),
        (["--data", "{file}", "--metric", "number"], "has no number"),
        (["--data", "{file}", "--html", "page.html", "--lang", "fr"], "fr"),
        (["--data", "{file}", "--html", "nowhere/page.html"], "nowhere"),
    ],
)
def test_eval_refuses_what_it_cannot_do(
    starter_path: Path,
    test_file: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
):
    given = [text.replace("{file}", str(test_file)) for text in options]
    assert run(["eval", str(starter_path), *given, "--max-tokens", "1", "--threads", "1"]) == 2
    assert message in capsys.readouterr().err


def test_prove_says_pass_and_gives_its_figures(
    starter_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(["prove", str(starter_path), "--positions", "64", "--threads", "1", "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["verdict"] == "pass"
    assert proof["exact"]["mean_kl"] < proof["exact_limit"] == 1e-9
    assert proof["tokens"]["n_same"] == proof["tokens"]["n"]
    assert proof["served"]["n_positions"] == 64


def test_compare_shows_answers_and_takes_a_blind_vote(
    starter_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    other = tmp_path / "other.gguf"
    other.symlink_to(starter_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is the capital of Japan?\n")
    asked = ["compare", str(starter_path), str(other), "--prompts", str(prompts)]
    asked += ["--max-tokens", "8", "--threads", "1"]
    assert run([*asked, "--html", str(tmp_path / "c.html")]) == 0
    assert capsys.readouterr().out.count("Tokyo") == 2
    assert "Tokyo" in (tmp_path / "c.html").read_text()
    monkeypatch.setattr(sys, "stdin", StringIO("q\n"))
    assert run([*asked, "--blind", "--json"]) == 0  # the same answers: nothing to vote on
    assert json.loads(capsys.readouterr().out)["n_votes"] == 0
    assert run(["compare", str(other), str(other), "--prompts", str(prompts)]) == 2
