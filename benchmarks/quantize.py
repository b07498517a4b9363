"""How fast a model is quantized, file to file, and in how much memory, against other programs.

    python -m benchmarks.quantize                     # the wide starter, all cores
    python -m benchmarks.quantize --threads 1 --trials 1 --types q4_0
    python -m benchmarks.quantize --libllama build/bin/libllama.so   # llama.cpp's own quantizer too

All do the same job: the same F32 file in, the same bytes out (asserted), done when the disk has
them. libgguf and gguf-py only pack arrays, so they get the tensors from a memory map (no copy) and
our writer behind them; libgguf packs a tensor with threads of its own, gguf-py packs a few types,
in numpy, with one thread. Ours reads the file anew, as it does with files that others may change,
and looks at every weight and scale whether it is a number, as llama.cpp does. Each trial is a
process of its own, on as many cores as there are threads. Private bytes are memory of the
process's own, without mapped files. Prints every trial and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks._measure import measured_on, timed, trial
from benchmarks.wide_starter import make

from llamune.convert import QuantizePlan, TypeOptions, file_type, plan_quantize, quantize
from llamune.files import sha256_of
from llamune.gguf import ModelFile, NewTensor, QuantType, write_gguf

TYPES = ("f16", "q8_0", "q4_0", "q4_k", "q6_k", "q2_k")
GGUF_PY_TYPES = {"f16", "q8_0", "q4_0"}
AIM_TIMES_AS_FAST = 1.0  # as the fastest of the others

Pack = Callable[[np.ndarray, QuantType], np.ndarray]


def plan_for(file: ModelFile, kind: str) -> QuantizePlan:
    """Return the plan that all follow: one type for every matrix."""
    return plan_quantize(file, file_type(kind), options=TypeOptions(pure=True))


def ours(source: Path, out: Path, kind: str, threads: int) -> None:
    """Quantize with llamune."""
    with ModelFile.open(source, mapped=False) as file:
        quantize(plan_for(file, kind), out, threads=threads)


def libgguf(source: Path, out: Path, kind: str, threads: int) -> None:
    """Quantize each tensor with libgguf, which starts a thread for each core it may use."""
    import libgguf

    assert threads
    write_packed(source, out, kind, lambda floats, quant: libgguf.quantize_rows(floats, quant.id))


def gguf_py(source: Path, out: Path, kind: str, threads: int) -> None:
    """Quantize each tensor with gguf-py's numpy code, which has no threads."""
    import gguf

    assert threads

    def pack(floats: np.ndarray, quant: QuantType) -> np.ndarray:
        return gguf.quantize(floats, gguf.GGMLQuantizationType(quant.id))

    write_packed(source, out, kind, pack)


def write_packed(source: Path, out: Path, kind: str, pack: Pack) -> None:
    """Write the file that our plan says, each changed tensor packed as a whole by `pack`."""

    def chunks(file: ModelFile, name: str, quant: QuantType) -> Iterator[np.ndarray]:
        rows = file.packed(name)
        yield rows if file.tensors[name].type == quant else pack(rows.view(np.float32), quant)

    with ModelFile.open(source, mapped=True) as file:
        plan = plan_for(file, kind)
        tensors = [
            NewTensor(name, file.tensors[name].shape, quant, partial(chunks, file, name, quant))
            for name, quant in plan.types.items()
        ]
        write_gguf(out, metadata=plan.metadata, tensors=tensors)


def llama_cpp(source: Path, out: Path, kind: str, threads: int) -> None:
    """Quantize with llama.cpp's own quantizer, and wait for the disk, which it does not."""
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
    with out.open("rb") as written:
        os.fsync(written.fileno())


WORKERS = {work.__name__: work for work in (ours, libgguf, gguf_py, llama_cpp)}


def run_worker(name: str, source: Path, kind: str, threads: int, out: Path) -> None:
    """Do one trial and print its seconds."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    _, seconds = timed(lambda: WORKERS[name](source, out, kind, threads))
    print(json.dumps({"seconds": seconds}))


def names_of(kind: str) -> Iterator[str]:
    """Yield the implementations that can write a type."""
    yield "ours"
    yield "libgguf"
    if kind in GGUF_PY_TYPES:
        yield "gguf_py"
    if "LLAMUNE_LIBLLAMA" in os.environ:
        yield "llama_cpp"


def digest_of_tensors(path: Path) -> dict[str, bytes]:
    """Return each tensor's bytes, digested: llama.cpp writes other metadata beside them."""
    with ModelFile.open(path) as file:
        return {name: hashlib.sha256(file.packed(name).data).digest() for name in file.tensors}


def measure(
    source: Path, out: Path, kind: str, *, threads: int, trials: int, n_weights: int
) -> dict[str, dict[str, Any]]:
    """Return each implementation's speed and memory for one type; all write the same bytes."""
    results: dict[str, dict[str, Any]] = {}
    wanted: dict[str, bytes] = {}
    names = list(names_of(kind))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(trials):
        for name in names:  # in turns: a slow minute of the machine hits all alike
            out.unlink(missing_ok=True)
            os.sync()
            options: list[str | Path] = ["--worker", name, "--file", source, "--types", kind]
            found[name].append(trial("quantize", *options, "--threads", threads, "--out", out))
            if len(found[name]) == 1:
                digests = digest_of_tensors(out)
                wanted = wanted or digests
                assert digests == wanted, (kind, name)
    for name, ones in found.items():
        rates = [n_weights / one["seconds"] / 1e6 for one in ones]
        peak = max(one["peak_private_bytes"] for one in ones)
        shown = " ".join(f"{rate:.0f}" for rate in rates)
        print(f"{kind:<6} {name:<10} {peak / 1e6:>6.0f} MB  {shown} M weights/s", flush=True)
        results[name] = {
            "million_weights_per_second": median(rates),
            "best_million_weights_per_second": max(rates),
            "peak_private_bytes": peak,
        }
    return results


def main() -> None:
    """Run all trials and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--trials", type=int, default=5)
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
    sha256_of(source)  # into the page cache, for all alike
    with ModelFile.open(source) as file:
        changed = plan_for(file, "q8_0").changed
        n_weights = sum(file.tensors[name].n_elements for name in changed)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            kind: measure(
                source,
                Path(folder) / "out.gguf",
                kind,
                threads=chosen.threads,
                trials=chosen.trials,
                n_weights=n_weights,
            )
            for kind in chosen.types
        }
    print(json.dumps(summary(results, chosen.threads, chosen.trials, n_weights)))


def summary(
    results: dict[str, dict[str, dict[str, Any]]], threads: int, trials: int, n_weights: int
) -> dict[str, Any]:
    """Return the last line: medians, and how ours stand to the fastest of the others."""
    speed = "million_weights_per_second"
    faster = {
        kind: found["ours"][speed] / max(one[speed] for who, one in found.items() if who != "ours")
        for kind, found in results.items()
    }
    return {
        "benchmark": "quantize",
        **measured_on(),
        "threads": threads,
        "n_trials": trials,
        "n_weights": n_weights,
        "results": results,
        "times_as_fast_as_the_fastest": faster,
        "aim_times_as_fast": AIM_TIMES_AS_FAST,
    }


if __name__ == "__main__":
    main()
