"""A parent that says why its child was killed; a machine kept awake, and said so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from llamune.jobs import awake
from llamune.jobs.guard import explain_kill, free_ollama
from llamune.runs import Run, Situation, settle
from tests.concurrency import PATIENCE_SECONDS, wait_until
from tests.store.ollama_server import OllamaStandIn

SUPERVISED = """
import os, signal, sys
from llamune.jobs import guard
guard.PROGRAM = sys.argv[1]
try:
    sys.exit(guard.supervise())
except guard.OutOfMemory as error:
    print(error.message, "|", error.hint)
"""


def supervise(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SUPERVISED, program], text=True, capture_output=True, check=False
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows kills for memory in another way")
def test_a_killed_child_is_explained() -> None:
    done = supervise("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "the system killed the training" in done.stdout
    assert "start it again with" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows kills for memory in another way")
def test_the_childs_exit_code_is_passed_on() -> None:
    assert supervise("import sys; sys.exit(1)").returncode == 1
    assert supervise("print('done')").stdout == "done\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups of this kind")
def test_ctrl_c_reaches_the_child_and_the_parent_waits_for_it() -> None:
    waits = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('saved', flush=True), sys.exit(130)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, waits],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    out, _ = parent.communicate(timeout=PATIENCE_SECONDS)
    assert out == "saved\n"
    assert parent.returncode == 130


def test_a_kill_says_what_to_lower_and_is_recorded() -> None:
    facts = Situation(n_records=100, longest_tokens=50, context_length=512, d_model=576)
    asked = {"base": "starter", "name": "tickets", "data": "a.json", "micro_batch": 4}
    run = Run.create("tickets", recipe=settle(asked, facts))
    run.update(state="running", process=4242, started=datetime.now(UTC))
    error = explain_kill(4242, by_kernel=True)
    assert "--micro-batch 2 (now 4)" in (error.hint or "")
    assert run.record.state == "failed"
    assert "for want of memory" in (run.record.fault or "")


def test_the_machine_is_kept_awake_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    from llamune.jobs import guard

    monkeypatch.setattr(
        guard, "inhibitor", lambda: [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    before = psutil.Process().children()

    def children() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if child not in before]

    said: list[str] = []
    with awake(allow_sleep=False, say=said.append):
        assert len(children()) == 1
        assert "kept awake" in said[0]
    wait_until(lambda: not children())
    with awake(allow_sleep=True, say=said.append):
        assert children() == []
    assert len(said) == 1


def test_a_battery_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    battery = SimpleNamespace(percent=43.0, power_plugged=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    said: list[Any] = []
    with awake(allow_sleep=True, say=said.append):
        pass
    assert "on battery (43 %)" in said[0]


def test_what_ollama_holds_is_unloaded_on_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = OllamaStandIn(tmp_path, "0.35.2")
    monkeypatch.setenv("OLLAMA_HOST", server.address)
    asked: list[str] = []
    said: list[str] = []

    def answer(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    try:
        assert not free_ollama(confirm=answer, say=said.append)
        assert (asked, said) == ([], [])  # it holds nothing
        server.loaded = ["gemma2:9b", "other:latest"]
        assert not free_ollama(confirm=answer, say=said.append)
        assert said[0] == "Ollama holds gemma2:9b in memory, 5.00 GB (4.66 GiB)"
        assert server.loaded == ["gemma2:9b", "other:latest"]
        assert free_ollama(confirm=answer, say=said.append)
        assert server.loaded == []
        assert ("POST", "/api/generate") in {request[:2] for request in server.requests}
        server.loaded = ["gemma2:9b"]
        monkeypatch.setattr(server, "generate", lambda _: 1 / 0)
        assert not free_ollama(confirm=answer, say=said.append)  # no reason not to train
        assert said[-1].startswith("warning: ")
    finally:
        server.close()
