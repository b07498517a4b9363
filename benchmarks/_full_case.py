"""One training of the comparison of full training: a model, a way, a rate and a seed."""

from __future__ import annotations

import json
import pydoc_data.topics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks._windows import Window

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["BATCH", "WAYS", "Way", "prose_records", "random_records", "train_case"]


BATCH = 4  # windows a step
WIDE_RATE = 1.25e-5  # the wide starter's weights are smaller: 2e-4 undoes it


@dataclass(frozen=True)
class Way:
    """A way to train.

    Args:
        choices: fields of the recipe.
        rate: what the search starts from.
        wide: whether the starter's rows do not divide, so that the wide starter is trained.
    """

    choices: dict[str, Any]
    rate: float
    wide: bool = False


WAYS = {
    "dense-f32": Way({"method": "full", "dense": True}, 5e-5),
    "dense-f32-wide": Way({"method": "full", "dense": True}, WIDE_RATE, wide=True),
    **{
        f"packed-{kind}-{optimizer}": Way(
            {"method": "full", "keep_type": kind, "optimizer": optimizer},
            rate=WIDE_RATE if kind == "Q6_K" else 5e-5,
            wide=kind == "Q6_K",
        )
        for kind in ("Q8_0", "BF16", "Q6_K")
        for optimizer in ("factored", "adamw8")
    },
    "lora-r16": Way({"method": "lora", "rank": 16, "dropout": 0.0}, 5e-4),
}


def prose_records(file: Any, *, length: int) -> tuple[list[Window], list[Window]]:
    """Return windows of English technical prose to train on, and others held out."""
    from llamune.text import tokenizer_of

    text = "\n\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    ids = tokenizer_of(file).encode(text)
    windows = [Window(ids[start : start + length]) for start in range(0, len(ids) - length, length)]
    order = np.random.default_rng(0).permutation(len(windows))
    held = {int(number) for number in order[: len(windows) // 10]}
    kept = [window for number, window in enumerate(windows) if number not in held]
    return kept, [windows[number] for number in sorted(held)][:24]


def random_records(count: int, *, length: int, n_vocab: int) -> list[Window]:
    """Return windows of random tokens."""
    random = np.random.default_rng(0)
    return [Window(random.integers(3, n_vocab, size=length).tolist()) for _ in range(count)]


def train_case(
    name: str, path: Path, *, factor: float, seed: int, steps: int, threads: int, length: int
) -> dict[str, Any]:
    """Train a file in one way; return the held-out loss along the way, seconds and memory.

    Args:
        name: a key of `WAYS`.
        path: the model file.
        factor: on the way's own rate.
        seed: of data order and rounding.
        steps: optimizer steps of 4 windows.
        threads: CPU threads.
        length: tokens of a window.
    """
    import torch

    from llamune.arch import describe
    from llamune.gguf import ModelFile
    from llamune.nn import load
    from llamune.runs import Run, Situation, settle
    from llamune.train import (
        attach_adapter,
        dense_loop,
        forecast_noise,
        packed_loop,
        train,
        trained_types,
        widen,
    )

    torch.set_num_threads(threads)
    way = WAYS[name]
    asked = {
        "base": str(path), "name": f"{name}-{seed}", "data": "none", "steps": steps, "batch": BATCH,
        "learning_rate": way.rate * factor, "seed": seed, "evaluations": 4, "patience": 0,
        "micro_batch": BATCH, "max_length": length, "checkpoint_minutes": 1e9, **way.choices,
    }  # fmt: skip
    with ModelFile.open(path) as base:
        family = describe(base)
        training, held_out = prose_records(base, length=length)
        situation = Situation(
            n_records=len(training), longest_tokens=length, context_length=2048,
            d_model=family.sizes.d_model,
        )  # fmt: skip
        recipe = settle(asked, situation)
        run = Run.create(recipe.name, recipe=recipe)
        loaded = partial(load, family=family, device="cpu", dtype=torch.float32, compiled=False)
        make_loop = None
        model: PeftModel | PreTrainedModel
        rounding = {}
        if recipe.is_packed:
            names = [rule.gguf for rule in family.linear_modules("all").values()]
            forecast = forecast_noise(base, names, recipe)[0]
            rounding = {"rounding_forecast": forecast.added, "rounding_own": forecast.own}
            types = trained_types(base, family, keep_type=recipe.keep_type, train_embeddings=False)
            widen(base, types, run.folder / "start.gguf")
            file = ModelFile.open(run.folder / "start.gguf", mapped=False)
            model = loaded(file)
            make_loop = packed_loop(model, file, family, recipe)
        elif recipe.method == "full":
            model = loaded(base, unpack=True)
            make_loop = dense_loop(model, base, family, recipe)
        else:
            modules = list(family.linear_modules("all"))
            model = attach_adapter(loaded(base), recipe, modules=modules)
        began = time.perf_counter()
        result = train(model, training, held_out, recipe=recipe, run=run, make_loop=make_loop)
    return {
        "way": name,
        "model": path.name,
        "rate": recipe.learning_rate,
        "seed": seed,
        "steps": steps,
        "loss_before": result.validation_before,
        "loss_after": result.validation_loss,
        "curve": curve(run.metrics_path),
        "step_seconds": result.seconds / steps,
        "wall_seconds": time.perf_counter() - began,
        "peak_bytes": result.peak_bytes,
        **rounding,
        "rounding": rounding_measured(run.folder),
        "run_folder": str(run.folder),
    }


def curve(metrics: Path) -> list[dict[str, float]]:
    """Return step, tokens and seconds so far, and held-out loss, at each validation pass."""
    rows, tokens, seconds = [], 0, 0.0
    for line in metrics.read_text().splitlines():
        entry = json.loads(line)
        if "loss" in entry:
            tokens += entry["tokens"]
            seconds = entry["seconds"]
        else:
            rows.append({
                "step": entry["step"], "tokens": tokens, "seconds": seconds,
                "loss": entry["validation_loss"],
            })  # fmt: skip
    return rows


def rounding_measured(folder: Path) -> float | None:
    """Return the root mean square that rounding added to a weight; None for floats."""
    path = folder / "rounding.json"
    return json.loads(path.read_text())["measured"] if path.is_file() else None
