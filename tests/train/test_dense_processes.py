"""Two processes that hold half of the weights each find what one process finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llamune.gguf import ModelFile
from llamune.runs import Run
from llamune.train import TRAINED_MODEL, CheckpointError, checkpoint_steps
from tests.tiny import tiny_model
from tests.train import dense_tiny, packed_tiny
from tests.train.test_processes import launch, losses

PROGRAM = """
import os, signal, sys
from pathlib import Path
from llamune.runs import Run
from llamune.train import StepDone, Team
from tests.train import dense_tiny
run = Run.find(sys.argv[1])
how = sys.argv[3] if len(sys.argv) > 3 else "whole"
def interrupt(event):
    if how == "stop" and isinstance(event, StepDone) and event.step == 2:
        os.kill(os.getpid(), signal.SIGINT)
dense_tiny.go(Path(sys.argv[2]), run.recipe, run, on_event=interrupt, resume=how == "resume")
Team.of_environment().part()  # else the group's threads may outlive the interpreter
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(PROGRAM)
    return path


def floats_of(run: Run) -> dict[str, Any]:
    with ModelFile.open(run.folder / TRAINED_MODEL) as file:
        return {name: torch.from_numpy(file.floats(name).copy()) for name in file.tensors}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "choices"),
    [
        ("llama", {"recompute": True}),  # embedding and output are one matrix
        ("qwen2", {"train_embeddings": True, "optimizer": "sgd", "learning_rate": 1e-2}),  # biases
    ],
)
def test_two_processes_find_what_one_finds(
    family: str, choices: dict[str, Any], script: Path, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path, family, "Q8_0")
    chosen = dense_tiny.recipe(steps=6, evaluations=2, **choices)
    alone, shared = packed_tiny.new_run(chosen), packed_tiny.new_run(chosen)
    dense_tiny.go(base, chosen, alone)
    launch(shared, script, str(base))
    assert [step for step, _ in losses(shared)] == [step for step, _ in losses(alone)]
    assert [loss for _, loss in losses(shared)] == pytest.approx(
        [loss for _, loss in losses(alone)], rel=1e-5
    )
    wanted, found = floats_of(alone), floats_of(shared)
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(900)  # six processes, one pair after the other
@pytest.mark.parametrize("weight_type", ["float32", "bfloat16"])
def test_both_stop_and_go_on_bit_equal(weight_type: str, script: Path, tmp_path: Path) -> None:
    base = tiny_model(tmp_path, "llama", "Q8_0")
    chosen = dense_tiny.recipe(steps=5, evaluations=1, weight_type=weight_type)
    whole, halted = packed_tiny.new_run(chosen), packed_tiny.new_run(chosen)
    launch(whole, script, str(base))
    launch(halted, script, str(base), "stop")
    assert checkpoint_steps(halted.checkpoints)[-1] < 5
    assert not (halted.folder / TRAINED_MODEL).exists()
    with pytest.raises(CheckpointError, match="another number of processes than 1"):
        dense_tiny.go(base, chosen, halted, resume=True)
    launch(halted, script, str(base), "resume")
    assert losses(halted) == losses(whole)
    first, second = (run.folder / TRAINED_MODEL for run in (whole, halted))
    assert first.read_bytes() == second.read_bytes()
    assert losses(whole)[-1][1] < losses(whole)[0][1]
