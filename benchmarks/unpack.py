"""How fast each quant type unpacks, and what share of a training matmul that costs.

    python -m benchmarks.unpack                    # every type, 1536 x 4096 weights
    python -m benchmarks.unpack --types Q4_K,Q8_0 --rows 256 --seconds 0.2

Billions of weights a second: what a training step in f32 on the CPU does (`ours`: ggml's C code on
all threads into one reused buffer), the same on one thread, our torch code plain and compiled (what
other devices and number types use), libgguf, gguf-py, a plain copy of the same packed bytes. The
share is what unpacking twice (forward and backward) takes of a layer's training step with a LoRA
adapter: two products of the given number of tokens. All results are compared. Prints every type and
ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import libgguf
import numpy as np
import torch
from benchmarks._measure import measured_on

from llamune.gguf import quant_type, rows_to_floats
from llamune.nn import can_compile, unpack, unpackable

N_COLUMNS = 4096
TOKENS = (512, 2048, 8192)
AIMS = {512: 0.15, 2048: 0.05, 8192: 0.02}


def main() -> None:
    """Measure the chosen types and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--types", help="names, by comma; default all")
    parser.add_argument("--rows", type=int, default=1536)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    chosen = parser.parse_args()
    names = chosen.types.split(",") if chosen.types else [n for n in unpackable() if blocked(n)]
    products = {n: matmul_seconds(n, chosen.rows, chosen.seconds) for n in TOKENS}
    results = {}
    for name in names:
        results[name] = measure(name, chosen.rows, chosen.seconds, products)
        print(name, json.dumps(results[name]), flush=True)
    print(json.dumps(summary(results, products)))


def blocked(name: str) -> bool:
    """Whether a type's weights share scales in blocks."""
    return quant_type(name).block_size > 1


def measure(name: str, n_rows: int, seconds: float, products: dict[int, float]) -> dict[str, Any]:
    """Return one type's speeds in 10^9 weights a second, and shares of a training step."""
    kind = quant_type(name)
    rows = random_rows(name, n_rows)
    packed = torch.from_numpy(rows)
    wanted = rows_to_floats(rows, kind)
    buffer = torch.empty(n_rows, N_COLUMNS)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: unpack(packed, name, torch.float32, how="ggml", out=buffer).numpy(),
        "ours_one_thread": lambda: rows_to_floats(rows, kind, threads=1, out=buffer.numpy()),
        "torch": lambda: unpack(packed, name, torch.float32, out=buffer).numpy(),
        "gguf_py": lambda: gguf_py(rows, name),
        "copy": packed.clone,
    }
    if libgguf.row_size(kind.id, N_COLUMNS):  # else it lacks the type
        ways["libgguf"] = lambda: libgguf.dequantize_rows(rows, kind.id, N_COLUMNS)
    if can_compile("cpu"):
        ways["torch_compiled"] = lambda: unpack(
            packed, name, torch.float32, how="compiled", out=buffer
        ).numpy()
    n_weights = n_rows * N_COLUMNS
    times = {}
    for way, work in ways.items():
        try:
            found = work()
        except NotImplementedError:
            if way != "gguf_py":  # only it says so of a type that it lacks
                raise
            continue
        if way != "copy":
            found = np.asarray(found).reshape(wanted.shape)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
        times[way] = best_seconds(work, seconds)
    spent_once = times["ours"]
    return {
        **{way: round(n_weights / spent / 1e9, 3) for way, spent in times.items()},
        "share": {n: round(spent_once / (spent_once + products[n]), 4) for n in TOKENS},
    }


def random_rows(name: str, n_rows: int) -> np.ndarray:
    """Return packed rows of a normal distribution's weights, or random bytes with small scales."""
    kind = quant_type(name)
    random = np.random.default_rng(0)
    shape = (n_rows, N_COLUMNS // kind.block_size, kind.block_bytes)
    one = random.integers(0, 256, (64, *shape[1:]), dtype=np.uint8)
    for _ in range(1000):  # blocks with finite scales
        floats = rows_to_floats(one.reshape(64, -1), kind)
        bad = ~np.isfinite(floats).reshape(64, shape[1], -1).all(-1)
        if not bad.any():
            break
        one[bad] = random.integers(0, 256, (int(bad.sum()), kind.block_bytes), dtype=np.uint8)
    return np.tile(one, (-(-n_rows // 64), 1, 1))[:n_rows].reshape(n_rows, -1)


def gguf_py(rows: np.ndarray, name: str) -> np.ndarray:
    """Unpack with gguf-py.

    Raises:
        NotImplementedError: gguf-py lacks the type.
    """
    from gguf.quants import dequantize

    from gguf import GGMLQuantizationType

    if name not in GGMLQuantizationType.__members__:
        raise NotImplementedError(name)
    with np.errstate(all="ignore"):
        return dequantize(rows, GGMLQuantizationType[name])


def matmul_seconds(n_tokens: int, n_rows: int, seconds: float) -> float:
    """Return the best time of one product with a dense weight of the same shape."""
    x, weight = torch.ones(n_tokens, N_COLUMNS), torch.ones(n_rows, N_COLUMNS)
    return best_seconds(lambda: x @ weight.T, seconds)


def best_seconds(work: Callable[[], Any], seconds: float) -> float:
    """Return the shortest of many runs."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def summary(results: dict[str, Any], products: dict[int, float]) -> dict[str, Any]:
    """Return everything with what it was measured on."""
    over = {
        n: sorted(name for name, one in results.items() if one["share"][n] > AIMS[n])
        for n in TOKENS
    }
    return {
        "benchmark": "unpack",
        **measured_on(),
        "threads": torch.get_num_threads(),
        "columns": N_COLUMNS,
        "matmul_seconds": products,
        "types": results,
        "aims": AIMS,
        "over_the_aim": over,
    }


if __name__ == "__main__":
    main()
