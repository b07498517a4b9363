"""The frame of the command line: help, exit codes, errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from llamune.cli import _main, _screen
from llamune.errors import AnswerNo, LlamuneError


def commands(app: typer.Typer) -> list[str]:
    """Return every command line prefix that takes `--help`, groups opened up."""
    root = typer.main.get_command(app)
    found: list[str] = []

    def walk(command: Any, prefix: str) -> None:
        found.append(prefix)
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{prefix} {name}".strip())

    walk(root, "")
    return found


@pytest.mark.parametrize("prefix", commands(_main.build()))
def test_every_help_page_reads(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main.run([*prefix.split(), "--help"]) == 0
    page = capsys.readouterr().out
    assert "Usage:" in page
    assert "Traceback" not in page


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (LlamuneError("no such file", hint="look again"), 2, "error: no such file\n\nhint: look"),
        (AnswerNo("score 0.7 is below 0.8"), 1, "error: score 0.7"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            2,
            "error: torch is not installed\n\nhint: install it with: pip install 'llamune[train]'",
        ),
        (ModuleNotFoundError("No module named 'llamune.x'", name="llamune.x"), 3, "a fault in"),
        (ValueError("odd"), 3, "error: a fault in llamune: ValueError: odd"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def command() -> None:
        raise error

    def one_command(_only: str | None = None) -> typer.Typer:
        app = typer.Typer()
        app.callback()(_main.options)
        app.command("go")(command)
        return app

    monkeypatch.setattr(_main, "build", one_command)
    assert _main.run(["go"]) == code
    talk = capsys.readouterr().err
    assert expected in talk
    assert "Traceback" not in talk
    if code != 130:
        _main.run(["--debug", "go"])
        assert "Traceback" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main.run(["no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err


def test_hostile_strings_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _screen.note("a\x1b[2Jb\x07\u202ec")
    assert capsys.readouterr().err == "a\ufffd[2Jb\ufffd\ufffdc\n"


@pytest.mark.skipif(os.name == "nt", reason="a shell's way to close a stream")
@pytest.mark.parametrize("stderr", ["&-", "/dev/full"])
def test_talk_that_nobody_hears_changes_no_exit_code(stderr: str) -> None:
    if stderr == "/dev/full" and not Path(stderr).exists():
        pytest.skip("this system has no device that is always full")
    program = f'"$0" -c "from llamune.cli import main; main()" inspect nothing 2>{stderr}'
    assert subprocess.run(["sh", "-c", program, sys.executable], check=False).returncode == 2


@pytest.mark.parametrize(
    ("asked", "running", "found"),
    [
        (None, "2/345", _main.SPINS),
        (None, "1/345", None),
        (None, "?", None),
        ("7", "2/345", "7"),
    ],
)
def test_threads_that_wait_soon_leave_the_core_where_others_want_it(
    asked: str | None,
    running: str,
    found: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", asked or "")  # put back afterwards in either case
    if asked is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    load = tmp_path / "loadavg"
    load.write_text(f"0.20 0.18 0.12 {running} 11206\n")
    monkeypatch.setattr(_main, "RUNNING", load)
    monkeypatch.setattr(sys, "argv", ["llamune", "--version"])
    with pytest.raises(SystemExit):
        _main.main()
    assert os.environ.get("GOMP_SPINCOUNT") == found
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"  # what was asked for stays


def test_few_compiled_products_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # put back afterwards
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    monkeypatch.setattr(sys, "argv", ["llamune", "--version"])
    with pytest.raises(SystemExit):
        _main.main()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == _main.KERNELS_KEPT
