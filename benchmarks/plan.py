"""How right the plan is: predicted against measured peak memory, time, and llama.cpp's buffers.

    python -m benchmarks.plan                 # the whole grid, about an hour on two cores
    python -m benchmarks.plan --quick         # four small cases, to try it
    python -m benchmarks.plan --out results   # also writes plan.json and plan.svg there

Each training case is a process of its own: load, attach, three steps; the peak is the kernel's
high-water mark of the resident set. Beside it the rule of `accelerate estimate-memory` (four times
the weights in f32 for training with Adam). Prints every case and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from llamune.arch import describe
from llamune.gguf import ModelFile
from llamune.plan import Settings, cache_bytes, compute_bytes, shape_of, training_memory
from llamune.runs.machine import processor
from llamune.store import starter

STEPS = 3
AIM_MEDIAN, AIM_WORST, AIM_BUFFERS = 0.05, 0.10, 0.02
CONTEXTS = (512, 2048, 8192)


def grid(*, quick: bool) -> list[Settings]:
    """Return the training cases."""
    if quick:
        return [
            Settings(rank=8, micro_batch=1, length=64),
            Settings(rank=8, micro_batch=2, length=128),
            Settings(rank=32, micro_batch=1, length=128, targets="attention"),
            Settings(rank=8, micro_batch=1, length=128, dropout=True),
        ]
    cases = [
        Settings(rank=rank, micro_batch=batch, length=length)
        for rank in (8, 64)
        for batch, length in ((1, 128), (1, 512), (4, 128), (4, 512), (2, 1024))
    ]
    cases += [
        Settings(rank=16, micro_batch=4, length=256, targets=targets)
        for targets in ("attention", "mlp")
    ]
    cases += [
        Settings(rank=16, micro_batch=4, length=256, method="dora"),
        Settings(rank=16, micro_batch=4, length=256, dropout=True),
        Settings(rank=16, micro_batch=4, length=256, trained_share=0.1),
        Settings(rank=16, micro_batch=4, length=256, recompute=True),
        Settings(rank=16, micro_batch=4, length=1024, recompute=True),
    ]
    return cases


def models(folder: Path, *, quick: bool) -> list[Path]:
    """Return the models: the starter, and random ones of other families and types."""
    found = [starter.fetch()]
    if quick:
        return found
    from tests.tiny import tiny_model

    for family, kind in (("qwen3", "Q4_K"), ("gemma2", "Q8_0"), ("phi3", "Q6_K")):
        found.append(tiny_model(folder / family, family, kind))
    return found


def train_case(model: Path, settings: Settings) -> dict[str, float]:
    """Train a few steps in this process; return peak bytes and seconds a step."""
    import torch
    from peft import LoraConfig, get_peft_model

    from llamune.nn import choose_compute, load

    with ModelFile.open(model) as file:
        family = describe(file)
        compute = choose_compute(family, "cpu")
        torch.set_num_threads(compute.n_threads)
        base = load(file, family=family, device="cpu", dtype=compute.torch_dtype)
        targets = settings.targets
        names = {"mlp": ["gate_proj", "up_proj", "down_proj", "gate_up_proj"]}.get(
            str(targets), targets
        )
        known = {path.rpartition(".")[2] for path in family.linear_modules("all")}
        chosen = names if isinstance(names, str) else [name for name in names if name in known]
        config = LoraConfig(
            r=settings.rank,
            target_modules=list(family.linear_modules(chosen)),
            lora_dropout=0.1 if settings.dropout else 0.0,
            use_dora=settings.method == "dora",
        )
        tuned: Any = get_peft_model(base, config)
        if settings.recompute:
            tuned.gradient_checkpointing_enable()
            tuned.enable_input_require_grads()
        tuned.train()
        trained = [value for value in tuned.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        ids = torch.randint(3, family.sizes.n_vocab, (settings.micro_batch, settings.length))
        labels = ids.clone()
        labels[:, : int(settings.length * (1 - settings.trained_share))] = -100
        seconds = []
        for _ in range(STEPS):
            began = time.perf_counter()
            tuned(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
        high = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        assert high is not None, "needs Linux's /proc"
        return {
            "peak": int(high[1]) * 1024,
            "seconds": min(seconds[1:]),
            "gflops": compute.gflops,
            "compute_type": compute.dtype,
        }


def measured(model: Path, settings: Settings) -> dict[str, Any]:
    """Run one case in a process of its own."""
    case = json.dumps({"model": str(model), "settings": asdict(settings)})
    command = [sys.executable, "-m", "benchmarks.plan", "--case", case]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def training_rows(paths: list[Path], cases: list[Settings]) -> list[dict[str, Any]]:
    """Measure and predict every case; print each."""
    rows = []
    for path in paths:
        with ModelFile.open(path) as file:
            shape = shape_of(file, describe(file), name=path.stem[:24])
        for settings in cases:
            if settings.length > shape.context_length:
                continue
            found = measured(path, settings)
            exact = Settings(**{**asdict(settings), "compute_type": found["compute_type"]})
            memory = training_memory(shape, exact)
            flops = exact.tokens * shape.flops_per_token(exact.length, passes=exact.passes)
            row = {
                "model": shape.name,
                "settings": asdict(settings),
                "predicted_bytes": memory.total_bytes,
                "measured_bytes": found["peak"],
                "error": memory.total_bytes / found["peak"] - 1,
                "accelerate_rule_bytes": 4 * 4 * shape.n_parameters,
                "utilisation": flops / found["seconds"] / 1e9 / found["gflops"],
            }
            rows.append(row)
            print(
                f"{shape.name:24} {settings.method} r{settings.rank} {settings.micro_batch}x"
                f"{settings.length} {settings.targets}: {memory.total_bytes / 1e9:.2f} predicted, "
                f"{found['peak'] / 1e9:.2f} GB measured, {row['error']:+.1%}, "
                f"{row['utilisation']:.0%} of the trial's speed",
                flush=True,
            )
    return rows


def buffer_rows(path: Path) -> list[dict[str, Any]]:
    """Hold llama.cpp's own buffers over context sizes against the plan's."""
    from llamune.engine import native
    from llamune.engine.logits import NativeModel

    with ModelFile.open(path) as file:
        shape = shape_of(file, describe(file), name=path.stem[:24])
    lines: list[str] = []
    log = native.LogCallback(
        lambda _level, text, _data: lines.append(text.decode(errors="replace"))
    )
    library = native.library()
    rows = []
    with NativeModel(path, n_gpu_layers=0) as model:
        library.llama_log_set(log, None)
        for n_ctx in CONTEXTS:
            if n_ctx > shape.context_length:
                continue
            lines.clear()
            options = library.llama_context_default_params()
            options.n_ctx = n_ctx
            context = library.llama_init_from_model(ctypes.c_void_p(model._model), options)
            library.llama_free(ctypes.c_void_p(context))
            text = "".join(lines)
            for name, own in (("KV", cache_bytes), ("compute", compute_bytes)):
                sizes = re.findall(rf"CPU {name} buffer size = +([\d.]+) MiB", text)
                reported = sum(float(size) for size in sizes) * 2**20
                predicted = own(shape, context=n_ctx)[0]
                rows.append(
                    {
                        "model": shape.name,
                        "buffer": name,
                        "n_ctx": n_ctx,
                        "predicted_bytes": predicted,
                        "reported_bytes": reported,
                        "error": predicted / reported - 1,
                    }
                )
                print(f"{shape.name:24} {name} at {n_ctx:,}: {rows[-1]['error']:+.2%}", flush=True)
        library.llama_log_set(native.SILENT, None)
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw prediction against measurement."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    x = [row["measured_bytes"] / 1e9 for row in rows]
    y = [row["predicted_bytes"] / 1e9 for row in rows]
    top = max(*x, *y) * 1.05
    figure, axes = plt.subplots(figsize=(5, 5))
    axes.plot([0, top], [0, top], linewidth=1)
    axes.fill_between([0, top], [0, top * 0.9], [0, top * 1.1], alpha=0.15)
    axes.scatter(x, y, s=18)
    axes.set(xlabel="measured peak, GB", ylabel="predicted peak, GB", xlim=(0, top), ylim=(0, top))
    figure.tight_layout()
    figure.savefig(path)


def commit() -> str:
    """Return the commit that is measured."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four small cases on the starter")
    parser.add_argument("--out", type=Path, help="folder for plan.json and plan.svg")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case = json.loads(options.case)
        print(json.dumps(train_case(Path(case["model"]), Settings(**case["settings"]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = models(Path(folder), quick=options.quick)
        rows = training_rows(paths, grid(quick=options.quick))
        buffers = [row for path in paths for row in buffer_rows(path)]
    errors = [abs(row["error"]) for row in rows]
    worst_buffer = max(abs(row["error"]) for row in buffers)
    result = {
        "benchmark": "plan",
        "commit": commit(),
        "machine": f"{processor()}, {platform.system()}",
        "memory_median_error": median(errors),
        "memory_worst_error": max(errors),
        "buffers_worst_error": worst_buffer,
        "aims_met": {
            "median": median(errors) <= AIM_MEDIAN,
            "worst": max(errors) <= AIM_WORST,
            "buffers": worst_buffer <= AIM_BUFFERS,
        },
        "training": rows,
        "buffers": buffers,
    }
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "plan.json").write_text(json.dumps(result, indent=2) + "\n")
        draw(rows, options.out / "plan.svg")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
