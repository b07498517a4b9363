"""`llamune data …`: what it prints, writes and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llamune.cli._main import run

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = EXAMPLES / "tickets.json"
HELD_OUT = EXAMPLES / "tickets.test.json"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    lines = [
        {"prompt": "What is the capital of Norway?", "completion": "Oslo."},
        {"prompt": "What is the capital of Norway?", "completion": "Oslo."},
        {"prompt": "Where is Kyoto on the map?", "completion": ""},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_check_prints_findings_and_says_no(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check", str(file)]) == 1
    page = capsys.readouterr().out
    assert "error: empty_answer: 1" in page
    assert f"{file}:3 (record 3)" in page
    assert f"fix: llamune data clean {file} --drop duplicate --out NEW" in page


def test_check_of_good_data_says_yes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check", str(DEMO), "--held-out", str(HELD_OUT), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == 288
    assert report["findings"] == []


def test_check_writes_a_page_in_japanese(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    run(["data", "check", str(file), "--html", str(page), "--lang", "ja"])
    assert "学習データの検査" in page.read_text(encoding="utf-8")
    assert f"wrote {page}" in capsys.readouterr().err


def test_check_counts_with_the_models_own_tokenizer(
    starter_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "check", str(DEMO), "--model", str(starter_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["lengths"]["unit"] == "tokens"
    assert report["lengths"]["total"] == 16_784  # counted with tokenizers on the file's own keys
    assert report["lengths"]["limit"] == 8192


def test_show_marks_what_is_trained(starter_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "show", str(DEMO), "3", "--model", str(starter_path)]) == 0
    page = capsys.readouterr().out
    assert "<|im_start|>assistant\n⟦product/urgent<|im_end|>⟧" in page


def test_clean_split_and_convert_write_new_files(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = tmp_path / "clean.jsonl"
    drop = "duplicate,empty_answer"
    assert run(["data", "clean", str(file), "--out", str(clean), "--drop", drop]) == 0
    assert capsys.readouterr().out.strip() == str(clean)
    assert len(clean.read_text().splitlines()) == 1
    log = (tmp_path / "clean.jsonl.log.jsonl").read_text()
    assert f"duplicate of {file}:1" in log
    before = file.read_text()

    parts = tmp_path / "parts"
    assert run(["data", "split", str(DEMO), "--out", str(parts), "--test", "0.1"]) == 0
    sizes = [len(path.read_text().splitlines()) for path in sorted(parts.iterdir())]
    assert sum(sizes) == 288
    assert [path.name for path in sorted(parts.iterdir())] == [
        "test.jsonl",
        "train.jsonl",
        "valid.jsonl",
    ]

    other = tmp_path / "other.csv"
    assert run(["data", "convert", str(DEMO), "--out", str(other), "--to", "completion"]) == 0
    assert other.read_text().splitlines()[0] == "prompt,completion"
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "none.json"], "none.json: no such file"),
        (["check", "{file}", "--purpose", "fun"], "one of task, domain, language"),
        (["clean", "{file}", "--out", "{tmp}/b.jsonl", "--drop", "x"], "cannot drop 'x'"),
        (["convert", "{file}", "--out", "{tmp}/b.jsonl", "--to", "x"], "format 'x'"),
        (["convert", "{file}", "--out", "{file}"], "exists already"),
        (["split", "{file}", "--out", "{tmp}/p", "--validation", "2"], "leave nothing"),
        (["show", "{file}", "--model", "nothing-of-the-kind"], "nothing-of-the-kind"),
        (["show", "{file}", "9", "--model", "x"], "no record 9: there are 3"),
    ],
)
def test_what_is_refused_in_one_line(
    file: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [
        text.replace("{file}", str(file)).replace("{tmp}", str(tmp_path)) for text in arguments
    ]
    assert run(["data", *filled]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("error: ")
    assert said in first


def test_checking_needs_no_torch(file: Path) -> None:
    script = (
        "import sys; from llamune.cli._main import run; "
        f"run(['data', 'check', {str(file)!r}]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
