"""Why training on the served bytes matters: the loss as served, by what was trained on.

    python -m benchmarks served_quality                              # an hour on two cores
    python -m benchmarks served_quality --types q4_0 --seeds 1 --steps 4
    python -m benchmarks served_quality --keep DIR                   # goes on from what is there

For bases at several types made from the wide starter: an adapter trained (a) on the packed base it
is served with, (b) on the 16-bit reference and put on that base, (c) on an NF4-like rounding of the
reference and put on that base, (d) each merged back at the base's own types, rounded to nearest,
and the first of them also by compensated rounding, as `llamune merge` does.
Same data (English technical prose), same recipe, several seeds (of the adapter's first numbers
and of the data's order). llama.cpp computes the loss on held-out prose from whole distributions.
Intervals are 95 % of a bootstrap over held-out windows and seeds together; differences are paired.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._windows import Window
from benchmarks.wide_starter import make

import llamune
from llamune.adapter import merge, read_adapter, write_gguf_adapter
from llamune.arch import describe
from llamune.convert import file_type, plan_quantize, quantize
from llamune.engine import AdapterFile, prompt_logits
from llamune.evaluate import token_losses
from llamune.gguf import ModelFile, NewTensor, quant_type, write_gguf
from llamune.runs import Run, Situation, settle
from llamune.text import tokenizer_of

TYPES = ("q8_0", "q4_0", "q4_k_m", "q2_k")
WAYS = {"packed": None, "16-bit": "f16", "nf4": "nf4"}  # what is trained on; None: the base itself
COMPENSATED = "packed, compensated"  # the first way's adapter, merged by compensated rounding
BATCH, RANK, LEARNING_RATE = 4, 16, 1e-3
BOOTSTRAPS = 2000
NF4_BLOCK = 64
# QLoRA's normal-float levels, arXiv:2305.14314, appendix E
NF4_LEVELS = np.array(
    [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
     0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0],
    np.float32,
)  # fmt: skip


def main() -> None:
    """Make the bases, train, serve, and print each loss."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--length", type=int, default=128, help="tokens of a window")
    parser.add_argument("--steps", type=int, default=48, help=f"of {BATCH} windows")
    parser.add_argument("--held-out", type=int, default=32, help="windows")
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp")
    parser.add_argument("--keep", type=Path, help="folder of bases, adapters and losses")
    parser.add_argument("--pieces", type=int, default=sys.maxsize, help="stop after so much work")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llamune-served-") as scratch:
        folder = chosen.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["LLAMUNE_HOME"] = str(folder / "home")
        for number, piece in enumerate(pieces(folder, chosen)):
            print(piece, flush=True)
            if number + 1 >= chosen.pieces:
                return
        results = [json.loads(line) for line in losses_path(folder).read_text().splitlines()]
        print(json.dumps(figures(results, chosen)))


def pieces(folder: Path, chosen: argparse.Namespace) -> Iterator[str]:
    """Do what is not done yet; yield a line after each piece of work."""
    bases = {}
    for kind in ("f16", "nf4", *chosen.types):
        bases[kind] = folder / f"{kind}.gguf"
        if not bases[kind].exists():
            make_base(kind, bases[kind])
            yield f"made {kind}"
    training, held_out = prose(bases["f16"], chosen.held_out, length=chosen.length)
    path = losses_path(folder)
    path.touch()
    done = {(one["base"], one["trained_on"], one["seed"]) for one in map(json.loads, path.open())}
    for kind in chosen.types:
        if (kind, None, None) not in done:
            found = {"base": kind, "trained_on": None, "seed": None}
            add(path, {**found, "loss": loss_of(bases[kind], None, held_out, chosen.threads)})
            yield f"{kind} itself"
    for seed in range(chosen.seeds):
        for kind, base in bases.items():
            adapter = folder / f"{kind}-{seed}-adapter.gguf"
            if not adapter.exists():
                train_adapter(base, training, adapter, seed=seed, steps=chosen.steps)
                yield f"trained on {kind}, seed {seed}"
        for kind in chosen.types:
            for way, origin in WAYS.items():
                if (kind, way, seed) in done:
                    continue
                adapter = folder / f"{origin or kind}-{seed}-adapter.gguf"
                found = served(bases[kind], adapter, held_out, folder, threads=chosen.threads)
                add(path, {"base": kind, "trained_on": way, "seed": seed, **found})
                yield f"served {kind} with the adapter of {origin or kind}, seed {seed}"
            if (kind, COMPENSATED, seed) in done:
                continue
            adapter = folder / f"{kind}-{seed}-adapter.gguf"
            loss = compensated(
                bases[kind], adapter, training, held_out, folder, threads=chosen.threads
            )
            add(path, {"base": kind, "trained_on": COMPENSATED, "seed": seed, "merged": loss})
            yield f"merged into {kind} with compensation, seed {seed}"


def losses_path(folder: Path) -> Path:
    """Return where the losses are kept, a line each."""
    return folder / "losses.jsonl"


def add(path: Path, entry: dict[str, Any]) -> None:
    """Add a line of losses."""
    with path.open("a") as out:
        out.write(json.dumps(entry) + "\n")


def make_base(kind: str, path: Path) -> None:
    """Write the wide starter at a type, or rounded to NF4."""
    with ModelFile.open(make()) as source:
        if kind == "nf4":
            write_nf4(source, path)
        else:
            quantize(plan_quantize(source, file_type(kind)), path)


def write_nf4(source: ModelFile, path: Path) -> None:
    """Write the blocks' matrices rounded to NF4's levels, kept as F16."""
    f16, f32 = quant_type("F16"), quant_type("F32")

    def tensor(name: str) -> NewTensor:
        info = source.tensors[name]
        is_matrix = len(info.shape) == 2
        rounded = is_matrix and name.startswith("blk.")
        kind = f16 if is_matrix else f32

        def chunks() -> list[bytes]:
            weight = source.floats(name)
            values = nf4(weight) if rounded else weight
            return [values.astype(np.float16 if is_matrix else np.float32).tobytes()]

        return NewTensor(name, info.shape, kind, chunks)

    write_gguf(
        path,
        metadata={key: source.metadata.entry(key) for key in source.metadata},
        tensors=[tensor(name) for name in source.tensors],
    )


def nf4(weight: np.ndarray) -> np.ndarray:
    """Return a weight with each block of 64 rounded to the levels, scaled by its largest."""
    blocks = weight.reshape(-1, NF4_BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    scale[scale == 0] = 1
    middles = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2
    rounded = NF4_LEVELS[np.digitize(blocks / scale, middles)] * scale
    return np.asarray(rounded).reshape(weight.shape)


def prose(base: Path, n_held_out: int, *, length: int) -> tuple[list[Window], list[Window]]:
    """Return windows to train on, and held-out ones of other topics, evenly spread."""
    with ModelFile.open(base) as file:
        tokenizer = tokenizer_of(file)
        topics = [tokenizer.encode(text) for text in pydoc_data.topics.topics.values()]
    parts: tuple[list[Window], list[Window]] = ([], [])
    for number, ids in enumerate(topics):
        held = number % 4 == 3  # whole topics: nothing held out was seen
        parts[held].extend(
            Window(ids[start : start + length]) for start in range(0, len(ids) - length + 1, length)
        )
    training, held_out = parts
    chosen = np.linspace(0, len(held_out) - 1, n_held_out).astype(int)
    return training, [held_out[place] for place in chosen]


def train_adapter(
    base: Path, training: Sequence[Window], out: Path, *, seed: int, steps: int
) -> None:
    """Train an adapter on a base, all linear layers, and write it as GGUF."""
    from llamune.nn import choose_compute, load
    from llamune.train import attach_adapter, train

    length = len(training[0].ids)
    choices = {
        "base": str(base), "name": "served", "data": "prose", "seed": seed, "steps": steps,
        "rank": RANK, "learning_rate": LEARNING_RATE, "batch": BATCH, "micro_batch": BATCH,
        "max_length": length, "dropout": 0.0, "evaluations": 0, "checkpoint_minutes": 1e6,
    }  # fmt: skip
    with ModelFile.open(base) as file, tempfile.TemporaryDirectory() as scratch:
        family = describe(file)
        situation = Situation(
            n_records=len(training),
            longest_tokens=length,
            context_length=family.sizes.context_length,
            d_model=family.sizes.d_model,
        )
        recipe = settle(choices, situation)
        model = load(file, family=family, dtype=choose_compute(family).torch_dtype, compiled=False)
        modules = list(family.linear_modules("all"))
        run = Run(Path(scratch), name="served:latest", number=1)
        train(attach_adapter(model, recipe, modules=modules), training, [], recipe=recipe, run=run)
        write_gguf_adapter(run.adapter, file, family, out, base_digest=None)


def served(
    base: Path, adapter: Path, held_out: Sequence[Window], folder: Path, *, threads: int
) -> dict[str, list[float]]:
    """Return the losses of an adapter on a base, and merged into it at its own types."""
    merged = folder / "merged.gguf"
    with ModelFile.open(base) as file:
        merge(file, [(read_adapter(adapter, describe(file)), 1.0)], merged, replace=True)
    found = {
        "adapter": loss_of(base, adapter, held_out, threads),
        "merged": loss_of(merged, None, held_out, threads),
    }
    merged.unlink()
    return found


def compensated(
    base: Path, adapter: Path, training: Sequence[Window], held_out: Sequence[Window],
    folder: Path, *, threads: int,
) -> list[float]:  # fmt: skip
    """Return the losses of an adapter merged into its base by rounding with compensation."""
    merged, data = folder / "merged.gguf", folder / "training.txt"
    with ModelFile.open(base) as file:
        decode = tokenizer_of(file).decode
    data.write_text("\n\n".join(decode(window.ids) for window in training), encoding="utf-8")
    llamune.merge(
        str(base), [str(adapter)], out=merged, type="own", round="compensated",
        calibrate=[data], measure=False, replace_existing=True,
    )  # fmt: skip
    found = loss_of(merged, None, held_out, threads)
    merged.unlink()
    return found


def loss_of(
    model: Path, adapter: Path | None, held_out: Sequence[Window], threads: int
) -> list[float]:
    """Return the mean loss of each window, nats a token, as llama.cpp computes it."""
    adapters = [] if adapter is None else [AdapterFile(path=adapter)]
    ids = [window.ids for window in held_out]
    logits = prompt_logits(model, ids, adapters=adapters, n_threads=threads)
    return [
        round(float(token_losses(rows, window.ids).mean()), 5)
        for rows, window in zip(logits, held_out, strict=True)
    ]


def figures(results: Sequence[dict[str, Any]], chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the mean losses with intervals, and each way's distance from the packed one."""
    losses = {(one["base"], one["trained_on"], one["seed"]): one for one in results}
    bases, ways = [], []
    for kind in chosen.types:
        own = np.array(losses[kind, None, None]["loss"])
        bases.append({"base": kind, "loss": mean_of(own[None])})
        tables = {
            (way, key): np.array([losses[kind, way, seed][key] for seed in range(chosen.seeds)])
            for way in WAYS
            for key in ("adapter", "merged")
        }
        for way in WAYS:
            row: dict[str, Any] = {"base": kind, "trained_on": way}
            for key in ("adapter", "merged"):
                row[key] = mean_of(tables[way, key])
                if way != "packed":
                    difference = tables[way, key] - tables["packed", key]
                    row[f"{key}_above_packed"] = mean_of(difference)
            if way == "packed":
                made_up = [
                    losses[kind, COMPENSATED, seed]["merged"] for seed in range(chosen.seeds)
                ]
                row["compensated"] = mean_of(np.array(made_up))
            ways.append(row)
    return {
        "model": "wide starter (rotated: its outliers are evened out)",
        "steps": chosen.steps,
        "tokens_a_step": BATCH * chosen.length,
        "rank": RANK,
        "learning_rate": LEARNING_RATE,
        "seeds": chosen.seeds,
        "held_out_tokens": chosen.held_out * (chosen.length - 1),
        "bases": bases,
        "ways": ways,
    }


def mean_of(table: np.ndarray) -> dict[str, float]:
    """Return the mean of losses (seeds, windows) with a 95 % interval over both."""
    random = np.random.default_rng(0)
    n_seeds, n_windows = table.shape
    means = [
        table[random.integers(0, n_seeds, n_seeds)][
            :, random.integers(0, n_windows, n_windows)
        ].mean()
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "mean": round(float(table.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


if __name__ == "__main__":
    main()
