"""`plan --calibrate` times this machine on the model's shapes, and later plans use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.runs import machine
from tests.tiny import tiny_model


def test_a_trial_is_made_kept_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = str(tiny_model(tmp_path, "llama", "Q8_0"))
    assert not machine.facts("compute")
    assert run(["plan", tiny, "--calibrate", "--json"]) == 0
    captured = capsys.readouterr()
    assert "GFLOP/s" in captured.err
    (trial,) = machine.facts("compute").values()
    assert trial["gflops"] > 0
    assert "timed trial" in json.loads(captured.out)["time"]["source"]
