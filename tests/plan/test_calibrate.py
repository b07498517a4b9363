"""`plan --calibrate` measures this machine on a model, keeps it, and later plans use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.runs import Line, check_choices, measuring
from llamune.runs import machine as this_machine
from tests.concurrency import wait_until
from tests.tiny import tiny_model


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(measuring, "DISK_BYTES", measuring.CHUNK_BYTES)
    monkeypatch.setattr("llamune.train.speed.TRIAL_SECONDS", 0.1)


def others_take(monkeypatch: pytest.MonkeyPatch, *, disturbed: bool) -> None:
    monkeypatch.setattr(measuring.Others, "disturbed", lambda _self, _threads: disturbed)


def test_a_trial_is_made_kept_and_used(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
) -> None:
    others_take(monkeypatch, disturbed=False)
    tiny = str(tiny_model(tmp_path, "llama", "Q8_0"))
    assert not this_machine.facts("compute")
    assert run(["plan", tiny, "--calibrate", "--json"]) == 0
    captured = capsys.readouterr()
    assert "GFLOP/s" in captured.err
    assert "not kept" not in captured.err
    (trial,) = this_machine.facts("compute").values()
    assert trial["gflops"] > 0
    report = json.loads(captured.out)
    assert "calibrated on training steps" in report["time"]["source"]
    assert report["machine"]["bandwidth"] > 1e8
    assert this_machine.facts("training steps")
    assert run(["plan", tiny, "--explain"]) == 0
    out = capsys.readouterr().out
    assert "memory delivers" in out
    assert "not measured" not in out


def test_a_trial_beside_busy_programs_is_used_but_not_kept(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
) -> None:
    others_take(monkeypatch, disturbed=True)
    tiny = str(tiny_model(tmp_path, "qwen3", "Q8_0"))
    assert run(["plan", tiny, "--calibrate"]) == 0
    assert "not kept" in capsys.readouterr().err
    assert not this_machine.facts("compute")
    assert not this_machine.facts("training steps")


def test_the_first_long_training_measures_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    from llamune.jobs import opened, prepare_training
    from llamune.jobs.following import measured_compute
    from llamune.jobs.speed import with_measured_steps

    others_take(monkeypatch, disturbed=False)
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"instruction": f"say {n}", "output": "yes"} for n in range(20)]))
    tiny = str(tiny_model(tmp_path, "llama", "Q8_0"))
    chosen = check_choices({"base": tiny, "data": [str(data)], "name": "long", "steps": 10})
    with opened(tiny) as base:
        prepared = prepare_training(base, chosen, measure=measured_compute)
        assert with_measured_steps(prepared, measured_compute) is prepared  # soon over
        monkeypatch.setattr("llamune.jobs.speed.WORTH_MEASURING_SECONDS", 0.0)
        measured = with_measured_steps(prepared, measured_compute)
        assert "calibrated on training steps" in measured.plan.time.speed.source
        assert with_measured_steps(measured, measured_compute) is measured  # known now


def test_calibrating_wants_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--calibrate"]) == 2
    assert "which model" in capsys.readouterr().err


def test_a_busy_program_is_seen() -> None:
    others = measuring.Others()
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        wait_until(lambda: others.cores > 0.2)  # it has most of one
    finally:
        program.kill()
        program.wait()


def test_measured_lines_add_up() -> None:
    line = Line.through((64, 1.0), (128, 1.5))
    assert line.at(64) == pytest.approx(1.0)
    assert line.at(192) == pytest.approx(2.0)
    assert Line.through((64, 1.0), (128, 0.5)).each == 0.0
    half = line.minus(Line(start=0.1, each=0.0), over=2)
    assert half.start == pytest.approx((line.start - 0.1) / 2)
