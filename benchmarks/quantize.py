"""How fast weights are quantized, and in how much memory, against other implementations.

    python -m benchmarks.quantize                     # the wide starter, all cores
    python -m benchmarks.quantize --threads 1 --trials 1 --types q4_0
    python -m benchmarks.quantize --libllama build/bin/libllama.so   # llama.cpp's own quantizer too

Ours streams a whole file to a whole file, as llama.cpp's quantizer does; libgguf and gguf-py pack
the same tensors from arrays in memory and write nothing, which flatters them; we alone wait until
the disk has the file. gguf-py packs only a few types, in numpy, with one thread. Each trial is a
process of its own. That all write the same bytes is asserted. Prints every trial and ends with
one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.wide_starter import make

from llamune.convert import TypeOptions, file_type, plan_quantize, quantize
from llamune.gguf import ModelFile, QuantType

TYPES = ("f16", "q8_0", "q4_0", "q4_k", "q6_k", "q2_k")
ROWS_A_PART = 64


def ours(source: Path, out: Path, kind: str, threads: int) -> str:
    """Quantize with llamune, file to file."""
    with ModelFile.open(source, mapped=False) as file:
        plan = plan_quantize(file, file_type(kind), options=TypeOptions(pure=True))
        quantize(plan, out, threads=threads)
    return ""


def libgguf(source: Path, _: Path, kind: str, threads: int) -> str:
    """Quantize each tensor with libgguf, a part of its rows a thread."""
    import libgguf

    def pack(floats: np.ndarray, quant: QuantType) -> np.ndarray:
        with ThreadPoolExecutor(threads) as pool:
            parts = [floats[i : i + ROWS_A_PART] for i in range(0, len(floats), ROWS_A_PART)]
            return np.concatenate(
                list(pool.map(lambda part: libgguf.quantize_rows(part, quant.id), parts))
            )

    return packed_digest(source, kind, pack)


def gguf_py(source: Path, _: Path, kind: str, threads: int) -> str:
    """Quantize each tensor with gguf-py's numpy code, which has no threads."""
    import gguf

    assert threads
    return packed_digest(
        source,
        kind,
        lambda floats, quant: gguf.quantize(floats, gguf.GGMLQuantizationType(quant.id)),
    )


def packed_digest(
    source: Path, kind: str, pack: Callable[[np.ndarray, QuantType], np.ndarray]
) -> str:
    """Pack every tensor that our plan changes, and return a digest of the bytes."""
    digest = hashlib.sha256()
    with ModelFile.open(source, mapped=False) as file:
        plan = plan_quantize(file, file_type(kind), options=TypeOptions(pure=True))
        for name in plan.changed:
            packed = pack(file.floats(name), plan.types[name])
            if os.environ.get("LLAMUNE_BENCH_DIGEST"):
                digest.update(np.ascontiguousarray(packed).view(np.uint8))
    return digest.hexdigest()


def llama_cpp(source: Path, out: Path, kind: str, threads: int) -> str:
    """Quantize with llama.cpp's own quantizer, file to file."""
    import ctypes

    from tests.convert.recorded.record import Quantizer

    quantizer = Quantizer(Path(os.environ["LLAMUNE_LIBLLAMA"]))
    parameters = quantizer.library.llama_model_quantize_default_params()
    parameters.ftype = file_type(kind).id
    parameters.nthread = threads
    parameters.pure = True
    failed = quantizer.library.llama_model_quantize(
        str(source).encode(), str(out).encode(), ctypes.byref(parameters)
    )
    assert not failed, "".join(quantizer.said)
    return ""


WORKERS = {work.__name__: work for work in (ours, libgguf, gguf_py, llama_cpp)}
GGUF_PY_TYPES = {"f16", "q8_0", "q4_0"}


def run_worker(name: str, source: Path, kind: str, threads: int, out: Path) -> None:
    """Do one trial and print its figures."""
    start = time.perf_counter()
    WORKERS[name](source, out, kind, threads)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status")
    scale = 1 if sys.platform == "darwin" else 1024  # kilobytes on Linux
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    if status.exists():  # without the pages of the mapped file, which are not ours
        peak_bytes = anonymous_peak(status.read_text())
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes}))


def anonymous_peak(status: str) -> int:
    """Return the peak of resident memory less the file pages that are mapped now, bytes."""

    def field(name: str) -> int:
        return 1024 * int(status.partition(f"{name}:")[2].split()[0])

    return max(0, field("VmHWM") - field("RssFile"))


def trial(name: str, source: Path, kind: str, threads: int, out: Path) -> dict[str, float]:
    """Run one trial in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.quantize", "--worker", name]
    command += ["--file", str(source), "--types", kind, "--threads", str(threads)]
    command += ["--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    out.unlink(missing_ok=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def names_of(kind: str) -> Iterator[str]:
    """Yield the implementations that can write a type."""
    yield "ours"
    yield "libgguf"
    if kind in GGUF_PY_TYPES:
        yield "gguf_py"
    if "LLAMUNE_LIBLLAMA" in os.environ:
        yield "llama_cpp"


def check_bytes(source: Path, out: Path, kind: str) -> None:
    """Assert that ours and libgguf's bytes are the same."""
    os.environ["LLAMUNE_BENCH_DIGEST"] = "1"
    wanted = libgguf(source, out, kind, 1)
    del os.environ["LLAMUNE_BENCH_DIGEST"]
    ours(source, out, kind, 1)
    digest = hashlib.sha256()
    with ModelFile.open(source) as file, ModelFile.open(out) as new:
        plan = plan_quantize(file, file_type(kind), options=TypeOptions(pure=True))
        for name in plan.changed:
            digest.update(np.ascontiguousarray(new.packed(name)))
    out.unlink()
    assert digest.hexdigest() == wanted, kind


def main() -> None:
    """Run all trials and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--libllama", type=Path, help="llama.cpp's shared library")
    parser.add_argument("--file", type=Path, help="an F32 model; default the wide starter")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        run_worker(chosen.worker, chosen.file, chosen.types[0], chosen.threads, chosen.out)
        return
    if chosen.libllama:
        os.environ["LLAMUNE_LIBLLAMA"] = str(chosen.libllama.resolve())
    source = chosen.file or make()
    results: dict[str, dict[str, dict[str, Any]]] = {}
    with ModelFile.open(source) as file:
        plan = plan_quantize(file, file_type("q8_0"), options=TypeOptions(pure=True))
        n_weights = sum(file.tensors[name].n_elements for name in plan.changed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.gguf"
        for kind in chosen.types:
            check_bytes(source, out, kind)
            results[kind] = {}
            for name in names_of(kind):
                trials = [
                    trial(name, source, kind, chosen.threads, out) for _ in range(chosen.trials)
                ]
                rates = [n_weights / one["seconds"] / 1e6 for one in trials]
                peak = max(one["peak_bytes"] for one in trials)
                shown = " ".join(f"{rate:.0f}" for rate in rates)
                print(
                    f"{kind:<6} {name:<10} {peak / 1e6:>6.0f} MB  {shown} M weights/s", flush=True
                )
                results[kind][name] = {
                    "million_weights_per_second": median(rates),
                    "peak_bytes": peak,
                }
    print(
        json.dumps(
            {
                "benchmark": "quantize",
                "commit": commit(),
                "machine": platform.machine(),
                "cpu": cpu(),
                "threads": chosen.threads,
                "n_trials": chosen.trials,
                "n_weights": n_weights,
                "results": results,
            }
        )
    )


def commit() -> str:
    """Return the commit of the checkout."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def cpu() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    return next((x.partition(":")[2].strip() for x in names if x.startswith("model name")), "")


if __name__ == "__main__":
    main()
