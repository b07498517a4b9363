"""`tune --method full --dense` under torchrun: two processes hold a part of the weights each."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from llamune.gguf import ModelFile
from llamune.runs import Run
from llamune.store import resolve
from tests.concurrency import free_port
from tests.jobs.test_processes import TORCHRUN, launch, losses


def command(base: Path, data: Path, name: str) -> list[str]:
    return ["tune", str(base), "--data", str(data), "--name", name, "--copy", "--allow-sleep",
            "--method", "full", "--dense", "--steps", "4", "--evaluations", "1", "--lr", "1e-3",
            "--batch", "4", "--final-type", "f16"]  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_every_weight_as_one_does(tiny_base: Path, examples: Path) -> None:
    two = [*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port())]
    for launcher, name in (([sys.executable], "alone"), (two, "shared")):
        done = launch(launcher, command(tiny_base, examples, name))
        assert done.returncode == 0, done.stderr[-3000:]
    # one process talks, one run is made and published
    assert done.stdout.count("shared:latest#1: 4 steps") == 1
    assert sorted(run.reference for run in Run.all()) == ["alone:latest#1", "shared:latest#1"]
    alone, shared = Run.find("alone"), Run.find("shared")
    assert [loss for _, loss in losses(shared)] == pytest.approx(
        [loss for _, loss in losses(alone)], rel=1e-5
    )
    assert shared.record.state == "done"
    assert shared.record.proof is not None
    assert shared.record.proof["verdict"] == "pass", shared.record.proof["reasons"]
    with (
        ModelFile.open(resolve("alone").path) as wanted,
        ModelFile.open(resolve("shared").path) as found,
    ):
        for name in wanted.tensors:
            np.testing.assert_allclose(
                found.floats(name), wanted.floats(name), rtol=1e-3, atol=2e-5, err_msg=name
            )
