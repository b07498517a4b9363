"""One training in this process, as `tune` does it, and what it took.

    python -m benchmarks._plan_case '{"model": "x.gguf", "settings": {...}, "steps": 2}'

Prints one line of JSON. The peak is the kernel's high-water mark of the resident set; beside it
stands torch's own accounting of one more forward and backward: what its allocator had handed out.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from llamune.arch import Family, describe
from llamune.gguf import ModelFile
from llamune.runs import Recipe, Run, Situation, settle


@dataclass(frozen=True, kw_only=True)
class RandomRecord:
    """A record of random tokens of which the last ones are trained."""

    ids: list[int]
    trained: list[bool]


def recipe_of(settings: dict[str, Any], *, model: Path, steps: int, n_vocab: int) -> Recipe:
    """Return the recipe of a case."""
    situation = Situation(
        n_records=settings["micro_batch"],
        longest_tokens=settings["length"],
        context_length=max(settings["length"], 8),
        d_model=n_vocab,
    )
    chosen = {
        "base": str(model),
        "name": "case",
        "data": ["random"],
        "steps": steps,
        "batch": settings["micro_batch"],
        "micro_batch": settings["micro_batch"],
        "max_length": settings["length"],
        "method": settings["method"],
        "recompute": settings["recompute"],
        "evaluations": 0,
        "warmup_steps": 0,
        **method_fields(settings),
    }
    return settle(chosen, situation)


def method_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the recipe that only the case's method has."""
    if settings["method"] != "full":
        return {
            "rank": settings["rank"],
            "targets": settings["targets"],
            "dropout": 0.1 if settings["dropout"] else 0.0,
        }
    if settings["dense"]:
        kept = {"weight_type": settings["weight_type"]}
    else:
        kept = {"keep_type": settings["keep_type"]}
    return {"dense": settings["dense"], "optimizer": settings["optimizer"], **kept}


def records_of(settings: dict[str, Any], *, n_vocab: int, n_varied: int = 0) -> list[RandomRecord]:
    """Return as many records as go through the model at once, or that many of varied lengths."""
    numbers = random.Random(0)
    longest, batch = settings["length"], settings["micro_batch"]
    lengths = [longest] * batch + [
        numbers.randint(longest // 8, longest) for _ in range(n_varied - batch)
    ]
    return [random_record(length, settings, numbers, n_vocab=n_vocab) for length in lengths]


def random_record(
    length: int, settings: dict[str, Any], numbers: random.Random, *, n_vocab: int
) -> RandomRecord:
    """Return a record of random tokens of which the case's share is trained."""
    n_trained = max(1, round(length * settings["trained_share"]))
    return RandomRecord(
        ids=[numbers.randrange(3, n_vocab) for _ in range(length)],
        trained=[i >= length - n_trained for i in range(length)],
    )


def seconds_a_step(run: Run) -> float | None:
    """Return the median seconds of the steps after the first, or None when there was one."""
    lines = run.metrics_path.read_text(encoding="utf-8").splitlines()
    ends = [json.loads(line)["seconds"] for line in lines]
    steps = [after - before for before, after in itertools.pairwise(ends)]
    return median(steps) if steps else None


def accounted_bytes(model: Any, records: list[RandomRecord]) -> int:
    """Return torch's own peak of one forward and backward above what lay there before."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from llamune.train import Collator

    inputs = Collator()(records)
    model.train()
    model.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(**inputs).loss.backward()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    del torch
    return peak


def train_case(
    model: Path, settings: dict[str, Any], *, steps: int, varied: bool = False
) -> dict[str, Any]:
    """Train some steps on random tokens; return peak bytes, seconds a step and what with."""
    import torch

    from llamune.nn import choose_compute
    from llamune.train import train

    with ModelFile.open(model) as file, tempfile.TemporaryDirectory() as folder:
        family = describe(file)
        compute = choose_compute(family, "cpu")
        torch.set_num_threads(compute.n_threads)
        dtype = settings["weight_type"] if settings["dense"] else compute.dtype
        n_vocab = family.sizes.n_vocab
        recipe = recipe_of(settings, model=model, steps=steps, n_vocab=n_vocab)
        run = Run(Path(folder), name="case", number=1)
        n_varied = steps * settings["micro_batch"] if varied else 0
        records = records_of(settings, n_vocab=n_vocab, n_varied=n_varied)
        tuned, make_loop = prepared_model(
            file, family, recipe, settings, dtype=getattr(torch, dtype), folder=Path(folder)
        )
        result = train(tuned, records, (), recipe=recipe, run=run, make_loop=make_loop)
        # what full training keeps for backward is its own hooks' affair
        accounted = accounted_bytes(tuned, records) if recipe.method != "full" else None
        return {
            "peak_bytes": result.peak_bytes,
            "accounted_bytes": accounted,
            "seconds_a_step": seconds_a_step(run),
            "compute_type": dtype,
            "n_threads": compute.n_threads,
            "gflops": compute.gflops,
        }


def prepared_model(
    file: ModelFile,
    family: Family,
    recipe: Recipe,
    settings: dict[str, Any],
    *,
    dtype: Any,
    folder: Path,
) -> tuple[Any, Any]:
    """Return the model as `tune` prepares it for the method, and what makes its loop."""
    from llamune.nn import compile_layers, load
    from llamune.train import attach_adapter, dense_loop, packed_loop, trained_types, widen

    options: dict[str, Any] = {"family": family, "device": "cpu", "dtype": dtype}
    if recipe.is_packed:
        types = trained_types(file, family, keep_type=recipe.keep_type, train_embeddings=False)
        widen(file, types, folder / "start.gguf")
        start = ModelFile.open(folder / "start.gguf", mapped=False)
        model = load(start, compiled=False, **options)
        return model, packed_loop(model, start, family, recipe)
    if recipe.method == "full":
        model = load(file, unpack=True, **options)
        return model, dense_loop(model, file, family, recipe)
    targets = MLP if settings["targets"] == "mlp" else settings["targets"]
    known = {path.rpartition(".")[2] for path in family.linear_modules("all")}
    modules = family.linear_modules(
        targets if isinstance(targets, str) else [name for name in targets if name in known]
    )
    base = load(file, compiled=settings["compiled"], **options)
    tuned = attach_adapter(base, recipe, modules=list(modules))
    compile_layers(tuned, compiled=settings["compiled"])
    return tuned, None


MLP = ("gate_proj", "up_proj", "down_proj", "gate_up_proj")


if __name__ == "__main__":
    case = json.loads(sys.argv[1])
    print(json.dumps(train_case(Path(case.pop("model")), case.pop("settings"), **case)))
