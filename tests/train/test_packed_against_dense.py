"""Packed weights go where the dense optimizer that they follow goes, clipping included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamune.arch import describe
from llamune.gguf import ModelFile
from llamune.runs import Run
from llamune.train import TRAINED_MODEL
from tests.tiny import tiny_model
from tests.train import dense_tiny, packed_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), "llama", "BF16")


def moves(base: Path, run: Run) -> Any:
    """Return how far each weight of the blocks' matrices has gone."""
    with ModelFile.open(base) as before, ModelFile.open(run.folder / TRAINED_MODEL) as after:
        names = [rule.gguf for rule in describe(before).linear_modules("all").values()]
        found = [after.floats(name) - before.floats(name) for name in names]
    return np.concatenate([one.ravel() for one in found])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "clip", "judge"),
    [
        # transformers' Adafactor bounds each update by itself, as we do
        ("factored", {"clip": "update", "clip_norm": 1.0}, ("adafactor", 0.0)),
        ("factored", {"clip": "global", "clip_norm": 0.05}, ("adafactor", 0.05)),
        ("adamw8", {"clip": "global", "clip_norm": 0.05}, ("adamw_torch", 0.05)),
        ("adamw8", {"clip": "global", "clip_norm": 0.0}, ("adamw_torch", 0.0)),
    ],
)
def test_the_way_is_the_dense_one(
    optimizer: str, clip: dict[str, Any], judge: tuple[str, float], base: Path
) -> None:
    shared = {"steps": 10, "evaluations": 0, "weight_decay": 0.0, "learning_rate": 1e-3}
    packed = packed_tiny.recipe(keep_type="BF16", optimizer=optimizer, **clip, **shared)
    dense = dense_tiny.recipe(optimizer=judge[0], clip_norm=judge[1], **shared)
    runs = [packed_tiny.new_run(chosen) for chosen in (packed, dense)]
    packed_tiny.go(base, packed, runs[0])
    dense_tiny.go(base, dense, runs[1])
    found, wanted = (moves(base, run) for run in runs)
    # rounding adds noise beside the way: at right angles, and known
    assert found @ wanted / (wanted @ wanted) == pytest.approx(1.0, abs=0.03)
    assert found @ wanted / np.sqrt((found @ found) * (wanted @ wanted)) > 0.95
