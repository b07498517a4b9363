"""What is left of a tuning in one file: bases of four types, five ways to hand it over.

    python -m benchmarks.merge                         # an hour and a half on two cores
    python -m benchmarks.merge --types q4_k_m --seeds 0 --keep rows.jsonl

For bases made from the wide starter: LoRA (r 16, all linear layers) on English technical prose;
then the adapter beside its base, merged into the base's own types by ggml's rounding, by ggml's
rounding with an importance matrix, by compensated rounding, and at Q8_0. llama.cpp computes loss
and KL from the pair on held-out prose, and the loss on general text and on a licence. Each merge
runs in a process of its own, for its time and its peak memory. With `--keep`, rows are kept as they
come and not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._rounding import (
    Effort,
    Kept,
    compare_merges,
    figures,
    in_own_process,
    interval,
    logits_of,
    measured_texts,
    merge_options,
    tuned,
)
from benchmarks.wide_starter import make

import llamune
from llamune.adapter import merge as merge_file
from llamune.adapter import read_adapter
from llamune.arch import describe
from llamune.convert import file_type, plan_quantize, quantize, read_importance
from llamune.engine import AdapterFile
from llamune.gguf import ModelFile, QuantType, floats_to_rows
from llamune.jobs import make_importance
from llamune.jobs.calibrating import FEWEST_TOKENS  # what compensation reads here
from llamune.text import tokenizer_of

TYPES = ("q4_0", "q4_k_m", "q3_k_m", "q2_k")


def main() -> None:
    """Make the bases, train, merge, serve, and print what each way keeps."""
    parser = merge_options(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    chosen = parser.parse_args()

    def one_seed(seed: int, folder: Path, kept: Kept) -> None:
        for kind in chosen.types:
            if not kept.has(base=kind, seed=seed, steps=chosen.steps):
                compare(kind, seed, folder, kept, steps=chosen.steps, threads=chosen.threads)

    compare_merges(chosen, one_seed, means)


def compare(kind: str, seed: int, folder: Path, kept: Kept, *, steps: int, threads: int) -> None:
    """Train on one base and measure every way to hand the result over."""
    base = folder / f"{kind}.gguf"
    if not base.exists():
        with ModelFile.open(make()) as source:
            quantize(plan_quantize(source, file_type(kind)), base)
    with ModelFile.open(base) as file:
        texts = measured_texts(tokenizer_of(file))
    name = f"{kind}-{seed}".replace("_", "-")
    run = tuned(base, folder / "prose.jsonl", name=name, seed=seed, steps=steps)
    adapter = AdapterFile(path=run.adapter_gguf)
    pair = {
        text: logits_of(base, sequences, adapters=[adapter], threads=threads)
        for text, sequences in texts.items()
    }
    common = {"base": kind, "seed": seed, "steps": steps}
    n_bytes = base.stat().st_size
    found = measured(base, texts, pair, threads)
    rows = [{**common, "way": "base", "bytes": n_bytes, "texts": found}]
    found = {text: figures(texts[text], pair[text], None) for text in texts}
    n_bytes += run.adapter_gguf.stat().st_size
    rows.append({**common, "way": "beside", "bytes": n_bytes, "texts": found})
    for way, work in WAYS.items():
        out = folder / f"{name}-{way}.gguf"
        effort: Effort = in_own_process(work, base, run.adapter_gguf, out, folder / "prose.jsonl")
        rows.append(
            {
                **common,
                "way": way,
                "bytes": out.stat().st_size,
                "seconds": effort.seconds,
                "peak_bytes": effort.peak_bytes,
                "texts": measured(out, texts, pair, threads),
            }
        )
        out.unlink()
    for row in rows:  # all of a comparison or nothing: a stopped one is begun anew
        kept.add(row)


def measured(
    path: Path, texts: dict[str, list[list[int]]], pair: dict[str, list[np.ndarray]], threads: int
) -> dict[str, dict[str, float]]:
    """Return losses and KLs of a file on each text."""
    found = {}
    for text, sequences in texts.items():
        logits = logits_of(path, sequences, threads=threads)
        found[text] = figures(sequences, logits, pair[text])
    return found


def merged_as(base: Path, adapter: Path, out: Path, options: dict[str, Any]) -> None:
    """Merge as the command does, without measuring."""
    llamune.merge(str(base), [str(adapter)], out=out, measure=False, **options)


def by_nearest(base: Path, adapter: Path, out: Path, _: Path) -> None:
    """Merge into the base's own types by ggml's rounding."""
    merged_as(base, adapter, out, {"type": "own", "round": "nearest"})


def by_compensation(base: Path, adapter: Path, out: Path, data: Path) -> None:
    """Merge into the base's own types by compensated rounding."""
    merged_as(base, adapter, out, {"type": "own", "round": "compensated", "calibrate": [data]})


def at_q8_0(base: Path, adapter: Path, out: Path, _: Path) -> None:
    """Merge with the changed tensors at Q8_0."""
    merged_as(base, adapter, out, {"type": "Q8_0", "round": "nearest"})


def by_importance(base: Path, adapter: Path, out: Path, data: Path) -> None:
    """Merge into the base's own types by ggml's rounding, weighted by an importance matrix."""
    matrix = out.with_suffix(".imatrix.gguf")
    make_importance(str(base), [data], matrix, n_tokens=FEWEST_TOKENS, replace=True)
    weights = read_importance(matrix).weights

    def weighted(name: str, rows: np.ndarray, kind: QuantType) -> np.ndarray:
        return floats_to_rows(rows, kind, weights[name][0])

    with ModelFile.open(base) as file:
        one = read_adapter(adapter, describe(file))
        merge_file(file, [(one, 1.0)], out, type_of=lambda tensor: tensor.type, round=weighted)


WAYS: dict[str, Callable[[Path, Path, Path, Path], None]] = {
    "nearest": by_nearest,
    "importance": by_importance,
    "compensated": by_compensation,
    "q8_0": at_q8_0,
}


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return means over seeds: the share of the gain that is kept, losses, KL, size and effort."""
    losses = {
        (row["base"], row["seed"], row["way"]): row["texts"]["domain"]["loss"] for row in rows
    }
    found = []
    for base, way in dict.fromkeys((row["base"], row["way"]) for row in rows):
        some = [row for row in rows if (row["base"], row["way"]) == (base, way)]
        entry: dict[str, Any] = {"base": base, "way": way, "bytes": some[0]["bytes"]}
        entry["loss"] = {
            text: interval([row["texts"][text]["loss"] for row in some])
            for text in some[0]["texts"]
        }
        gains = []
        for row in some:
            before, after = (losses[base, row["seed"], one] for one in ("base", "beside"))
            gains.append((before - row["texts"]["domain"]["loss"]) / (before - after))
        entry["gain_kept"] = interval(gains)
        if "kl" in some[0]["texts"]["domain"]:
            entry["kl"] = interval([row["texts"]["domain"]["kl"] for row in some])
        if "seconds" in some[0]:
            entry["seconds"] = interval([row["seconds"] for row in some])
            entry["peak_bytes"] = max(row["peak_bytes"] for row in some)
        found.append(entry)
    return found


if __name__ == "__main__":
    main()
