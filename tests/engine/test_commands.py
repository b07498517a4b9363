"""`run` and `chat` as a person runs them, on the starter."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from llamune.cli._main import run
from tests.engine.test_embedded import write_random_adapter

QUESTION = "What is the capital of Japan?"
GREEDY = ["--temperature", "0", "--threads", "1", "--context", "512"]


def test_run_prints_the_answer_and_nothing_else(
    starter_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert run(["run", str(starter_path), QUESTION, *GREEDY]) == 0
    out = capsys.readouterr().out
    assert out == "The capital of Japan is Tokyo.\n"
    monkeypatch.setattr(sys, "stdin", StringIO(QUESTION + "\n"))
    assert run(["run", str(starter_path), *GREEDY]) == 0
    assert capsys.readouterr().out == out


def test_run_gives_figures_as_json(starter_path: Path, capsys: pytest.CaptureFixture[str]):
    options = [*GREEDY, "--max-tokens", "3", "--json", "--system", "Be short."]
    assert run(["run", str(starter_path), QUESTION, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_answer_tokens"], found["finish_reason"]) == (3, "length")
    assert found["n_prompt_tokens"] > 10
    assert found["answer_seconds"] > 0


def test_run_applies_an_adapter_as_strongly_as_asked(
    starter_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    adapter = write_random_adapter(tmp_path / "a.gguf", starter_path, seed=0)

    def answer(*options: str) -> str:
        assert (
            run(["run", str(starter_path), QUESTION, *GREEDY, "--max-tokens", "8", *options]) == 0
        )
        return capsys.readouterr().out

    bare = answer()
    assert answer("--adapter", str(adapter)) != bare
    assert answer("--adapter", f"{adapter}@0") == bare


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "cat.png", QUESTION], "text only"),
        (["--adapter", "nowhere", QUESTION], "nowhere"),
        (["--adapter", "a@much", QUESTION], "'much' is not a strength"),
        (["--engine", "telegraph", QUESTION], "telegraph"),
        (["--max-tokens", "0", QUESTION], "max_tokens"),
    ],
)
def test_run_refuses_what_it_cannot_do(
    starter_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    assert run(["run", str(starter_path), *options]) == 2
    assert message in capsys.readouterr().err


def test_an_adapter_of_another_base_is_refused(starter_path: Path):
    from dataclasses import replace

    from llamune.engine import adapters_named, opening
    from llamune.errors import LlamuneError
    from llamune.store import Adapter, resolve

    base = replace(resolve(str(starter_path)), digest="sha256:" + "0" * 64)
    tuned = replace(base, digest="sha256:" + "1" * 64, adapters=(Adapter(path=Path("a.gguf")),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "resolve", lambda _: tuned)
        with pytest.raises(LlamuneError, match="another base"):
            adapters_named("tuned", base=base)


def chat(
    starter_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch, *options: str
) -> int:
    monkeypatch.setattr(sys, "stdin", StringIO("".join(f"{line}\n" for line in lines)))
    return run(["chat", str(starter_path), *GREEDY, "--max-tokens", "12", *options])


def test_chat_remembers_and_saves_what_training_can_read(
    starter_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    from llamune.data import read_records

    path = tmp_path / "talk.json"
    lines = ["/system Be short.", '"""', "What is", 'the capital of Japan?"""', "hi", "/undo"]
    assert chat(starter_path, [*lines, f"/save {path}", "/quit", "unread"], monkeypatch) == 0
    assert "Tokyo" in capsys.readouterr().out
    (record,) = read_records([path]).records
    assert [turn.role for turn in record.messages] == ["system", "user", "assistant"]
    assert record.messages[1].content == "What is\nthe capital of Japan?"
    assert "Tokyo" in record.answer


def test_chat_goes_on_after_a_mistake(
    starter_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    lines = ["/nonsense", "/set heat 3", "/set seed x", "/adapter none=1", "/save", "/adapter"]
    assert chat(starter_path, [*lines, "word " * 600, QUESTION], monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out.count("Tokyo") == 1
    for text in ("/nonsense is not a command", "/set heat", "'x' is not a number", "exceeds"):
        assert text in err


def test_chat_switches_an_adapter(
    starter_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    adapter = write_random_adapter(tmp_path / "a.gguf", starter_path, seed=0)
    lines = [QUESTION, "/clear", f"/adapter {adapter}=0", QUESTION, "/adapter"]
    assert chat(starter_path, lines, monkeypatch, "--adapter", str(adapter)) == 0
    out, err = capsys.readouterr()
    assert out.count("The capital of Japan is Tokyo.") == 1
    assert f"{adapter} = 0" in err


def test_the_first_token_comes_without_heavy_imports(starter_path: Path):
    """What makes 1.5 s possible: torch and its kin stay out of the process."""
    code = (
        "import sys\n"
        "from llamune.cli._main import run\n"
        f"assert run(['run', {str(starter_path)!r}, 'hi', '--max-tokens', '1',"
        " '--threads', '1']) == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'scipy', 'pyarrow', 'httpx', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
