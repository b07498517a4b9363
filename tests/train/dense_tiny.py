"""Training of tiny models as floats, alone or in one of several processes, for tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from llamune.arch import describe
from llamune.gguf import ModelFile
from llamune.nn import load, process_mesh
from llamune.runs import Recipe, Run
from llamune.train import TrainResult, dense_loop, train
from tests.train import packed_tiny, tiny

N_HELD_OUT = 5  # in batches of 2: an odd number of them for two processes


def recipe(**choices: Any) -> Recipe:
    return packed_tiny.recipe(
        **{"dense": True, "micro_batch": 2, "learning_rate": 3e-4, **choices},
    )


def go(base: Path, chosen: Recipe, run: Run, **options: Any) -> TrainResult:
    torch.set_num_threads(1)
    mesh = None
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
        mesh = process_mesh("cpu")
    dtype = getattr(torch, chosen.weight_type)
    with ModelFile.open(base) as file:
        family = describe(file)
        model = load(file, family=family, device="cpu", dtype=dtype, unpack=True, mesh=mesh)
        return train(
            model,
            tiny.records(n_vocab=packed_tiny.N_VOCAB),
            tiny.records(N_HELD_OUT, seed=5, n_vocab=packed_tiny.N_VOCAB),
            recipe=chosen,
            run=run,
            make_loop=dense_loop(model, file, family, chosen),
            **options,
        )
