"""Why training on the served bytes matters: the loss as served, by what was trained on.

    python -m benchmarks.served_quality                          # hours on two cores
    python -m benchmarks.served_quality --types q4_0 --seeds 1 --steps 20

For bases at several types made from the wide starter: an adapter trained (a) on the packed base it
is served with, (b) on the 16-bit reference and put on that base, (c) on an NF4-like rounding of the
reference and put on that base, (d) each merged back at the base's own types. Same data, same
recipe, several seeds; llama.cpp computes the loss on held-out answers from whole distributions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.wide_starter import make

import llamune
from llamune.adapter import merge, read_adapter
from llamune.arch import describe
from llamune.convert import file_type, plan_quantize, quantize
from llamune.data import Rendered, prepare, read_records
from llamune.engine import AdapterFile, prompt_logits
from llamune.evaluate import token_losses
from llamune.gguf import ModelFile, NewTensor, quant_type, write_gguf
from llamune.store import resolve
from llamune.text import template_of, tokenizer_of

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TYPES = ("q8_0", "q4_0", "q4_k_m", "q2_k")
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
    parser.add_argument("--steps", type=int, default=72)
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llamune-served-") as scratch:
        folder = Path(scratch)
        os.environ["LLAMUNE_HOME"] = str(folder / "home")
        bases = make_bases(folder, chosen.types)
        held_out = rendered_test(bases["f16"])
        results = []
        for seed in range(chosen.seeds):
            adapters = {
                kind: trained(bases[kind], kind, seed=seed, steps=chosen.steps) for kind in bases
            }
            for kind in chosen.types:
                ways = (("packed", kind), ("16-bit", "f16"), ("nf4", "nf4"))
                for way, origin in ways:
                    found = served(
                        bases[kind], adapters[origin], held_out, folder, threads=chosen.threads
                    )
                    results.append({"base": kind, "trained_on": way, "seed": seed, **found})
                    print(json.dumps(results[-1]), flush=True)
    print(json.dumps({"steps": chosen.steps, "results": results, "means": means(results)}))


def make_bases(folder: Path, types: Sequence[str]) -> dict[str, Path]:
    """Write the wide starter at each type, in 16 bits, and rounded to NF4."""
    bases = {}
    with ModelFile.open(make()) as source:
        for kind in ("f16", *types):
            bases[kind] = folder / f"{kind}.gguf"
            quantize(plan_quantize(source, file_type(kind)), bases[kind])
        bases["nf4"] = folder / "nf4.gguf"
        write_nf4(source, bases["nf4"])
    return bases


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
    return (NF4_LEVELS[np.digitize(blocks / scale, middles)] * scale).reshape(weight.shape)


def rendered_test(base: Path) -> list[Rendered]:
    """Return the held-out records as token ids with masks."""
    model = resolve(str(base))
    records = read_records([EXAMPLES / "tickets.test.json"]).records
    with ModelFile.open(model.paths) as file:
        tokenizer = tokenizer_of(file)
        return list(prepare(records, template_of(model, file, tokenizer), tokenizer).rendered)


def trained(base: Path, kind: str, *, seed: int, steps: int) -> Path:
    """Return the GGUF adapter of a run on this base."""
    run = llamune.tune(
        str(base), data=EXAMPLES / "tickets.json", name=f"{kind}-{seed}", seed=seed, steps=steps,
        rank=16, learning_rate=1e-3, batch=8, validation=0.0, evaluations=0,
    )  # fmt: skip
    return run.adapter_gguf


def served(
    base: Path, adapter: Path, held_out: Sequence[Rendered], folder: Path, *, threads: int
) -> dict[str, float]:
    """Return the held-out loss of the base, of the adapter on it, and merged at its types."""
    merged = folder / "merged.gguf"
    with ModelFile.open(base) as file:
        one = read_adapter(adapter, describe(file))
        merge(file, [(one, 1.0)], merged, type_of=lambda info: info.type)
    found = {
        "base": loss_of(base, (), held_out, threads),
        "adapter": loss_of(base, (AdapterFile(path=adapter),), held_out, threads),
        "merged": loss_of(merged, (), held_out, threads),
    }
    merged.unlink()
    return found


def loss_of(
    model: Path, adapters: Sequence[AdapterFile], held_out: Sequence[Rendered], threads: int
) -> float:
    """Return the mean loss on answer tokens, nats, as llama.cpp computes it."""
    sequences = [record.ids for record in held_out]
    total, count = 0.0, 0
    logits = prompt_logits(model, sequences, adapters=adapters, n_threads=threads)
    for record, rows in zip(held_out, logits, strict=True):
        counted = np.asarray(record.trained[1:])
        total += float(token_losses(rows, record.ids)[counted].sum())
        count += int(counted.sum())
    return total / count


def means(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over seeds of each loss, with a 95 % interval (normal, over seeds)."""
    rows = []
    for kind, way in dict.fromkeys((one["base"], one["trained_on"]) for one in results):
        row: dict[str, Any] = {"base": kind, "trained_on": way}
        for key in ("adapter", "merged"):
            values = [r[key] for r in results if (r["base"], r["trained_on"]) == (kind, way)]
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            row[key] = {
                "mean": statistics.mean(values),
                "half_width": 1.96 * spread / math.sqrt(len(values)),
            }
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
