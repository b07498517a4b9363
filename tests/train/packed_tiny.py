"""Full training of tiny models of every family, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from llamune.arch import Family, describe
from llamune.gguf import ModelFile
from llamune.nn import load
from llamune.runs import Recipe, Run, Situation, settle
from llamune.train import TrainResult, packed_loop, train, trained_types, widen
from tests.train import tiny

N_VOCAB = 320


def recipe(**choices: Any) -> Recipe:
    asked = {
        "base": "tiny", "name": "tiny-full", "data": "tiny.json", "method": "full", "steps": 10,
        "batch": 4, "learning_rate": 1e-3, "evaluations": 2, "warmup_steps": 0, **choices,
    }  # fmt: skip
    situation = Situation(n_records=24, longest_tokens=20, context_length=512, d_model=256)
    return settle(asked, situation)


@contextmanager
def opened(base: Path, chosen: Recipe, folder: Path) -> Iterator[tuple[ModelFile, Family]]:
    """Open a base at the types that the recipe trains in."""
    start = folder / "start.gguf"
    with ModelFile.open(base) as file:
        family = describe(file)
        types = trained_types(
            file, family, keep_type=chosen.keep_type, train_embeddings=chosen.train_embeddings
        )
        widen(file, types, start)
    with ModelFile.open(start, mapped=False) as file:
        yield file, family


def loaded(file: ModelFile, family: Family, **options: Any) -> Any:
    torch.set_num_threads(1)
    return load(file, family=family, device="cpu", dtype=torch.float32, compiled=False, **options)


def go(base: Path, chosen: Recipe, run: Run, **options: Any) -> TrainResult:
    with opened(base, chosen, run.folder) as (file, family):
        model = loaded(file, family)
        return train(
            model, tiny.records(n_vocab=N_VOCAB), tiny.records(8, seed=5, n_vocab=N_VOCAB),
            recipe=chosen, run=run, make_loop=packed_loop(model, file, family, chosen), **options,
        )  # fmt: skip


def new_run(chosen: Recipe) -> Run:
    return Run.create(chosen.name, recipe=chosen)
