"""Two processes that share each batch find what one process finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamune.runs import Run
from llamune.train import train
from tests.concurrency import free_port
from tests.train import tiny

PROGRAM = """
import sys
from llamune.runs import Run
from llamune.train import Team, train
from tests.train import tiny
run = Run.find(sys.argv[1])
train(tiny.adapted(run.recipe), tiny.records(), tiny.records(8, seed=5), recipe=run.recipe,
      run=run, layers=tiny.MODULES, resume=len(sys.argv) > 2)
Team.of_environment().part()  # else the group's threads may outlive the interpreter
"""


def launch(run: Run, script: Path, *extra: str) -> None:
    """Start two processes that find each other as torchrun's do."""
    common = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), run.reference, *extra],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said[-3000:]


def losses(run: Run) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [(entry["step"], entry.get("loss", entry.get("validation_loss"))) for entry in entries]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    # no dropout: each process draws its own numbers
    chosen = tiny.recipe(steps=8, dropout=0.0, evaluations=2)
    alone, shared = tiny.new_run(chosen), tiny.new_run(chosen)
    train(
        tiny.adapted(chosen), tiny.records(), tiny.records(8, seed=5),
        recipe=chosen, run=alone, layers=tiny.MODULES,
    )  # fmt: skip
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    launch(shared, script)
    assert [step for step, _ in losses(shared)] == [step for step, _ in losses(alone)]
    assert [loss for _, loss in losses(shared)] == pytest.approx(
        [loss for _, loss in losses(alone)], rel=1e-5
    )
    assert (shared.adapter / "adapter_model.safetensors").is_file()
    launch(shared, script, "resume")  # their checkpoints can be gone on from
