"""A LoRA training step on the starter: ours against transformers and PEFT on unpacked weights.

    python -m benchmarks.train_step                        # 1 x 512 and 4 x 512 tokens
    python -m benchmarks.train_step --shapes 1x64 --steps 2

Rank 8 on q, k, v and o, every position labelled, AdamW. Each trial is its own process: tokens a
second are the median step's after the first two, the peak is the whole process's. `share` is the
part of the machine's matrix-product speed that a step reaches: the operations that LoRA training
needs (4 a multiplying parameter and token), over the step's time and the f32 product's own speed.
The losses of all ways are compared. Prints every trial and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

AIM_TIMES_FASTER = 1.25
AIM_SHARE = 0.75
AIM_MEMORY = 0.5
WARM_UP_STEPS = 2
WAYS = ("peft", "packed", "packed-compiled")


def main() -> None:
    """Run the trials and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="1x512,4x512", help="batch x tokens, by comma")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        print(json.dumps(measure(chosen.worker, chosen.file, chosen.shapes, chosen.steps)))
        return
    from llamune.store import starter

    path = starter.fetch()
    results = {
        shape: {way: trial(way, path, shape, chosen.steps) for way in chosen.ways.split(",")}
        for shape in chosen.shapes.split(",")
    }
    print(json.dumps(summary(results)))


def trial(way: str, path: Path, shape: str, steps: int) -> dict[str, Any]:
    """Run one trial in a process of its own and print it."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--worker", way]
    command += ["--file", str(path), "--shapes", shape, "--steps", str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    speed, peak = found["tokens_per_second"], found["peak_bytes"] / 1e9
    print(f"{shape} {way:>16}: {speed:.0f} tokens/s, peak {peak:.2f} GB", flush=True)
    return found


def measure(way: str, path: Path, shape: str, steps: int) -> dict[str, Any]:
    """Train for some steps and return their figures."""
    import torch

    from llamune.arch import describe
    from llamune.gguf import ModelFile

    batch, length = (int(part) for part in shape.split("x"))
    file = ModelFile.open(path)
    model = with_adapter(way, file)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    seconds, losses = [], []
    for _ in range(steps):
        ids = torch.randint(100, 40000, (batch, length), generator=generator)
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    step = median(seconds[WARM_UP_STEPS:] or seconds[-1:])
    needed = describe(file).flops_per_token(length, training="lora") * batch * length
    scale = 1 if sys.platform == "darwin" else 1024  # kilobytes on Linux
    return {
        "tokens_per_second": batch * length / step,
        "first_step_seconds": seconds[0],
        "share": needed / step / (1e9 * product_gflops()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
        "losses": losses,
    }


def with_adapter(way: str, file: Any) -> Any:
    """Return the model of one way with a fresh adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    from llamune.nn import compile_layers, load
    from llamune.train import with_packed_layers

    torch.manual_seed(0)
    model: Any = load(file, device="cpu", dtype=torch.float32, unpack=way == "peft")
    if way == "peft":  # as transformers loads it
        model.config._attn_implementation = "sdpa"
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM")
    if way != "peft":
        config = with_packed_layers(config)
    model = get_peft_model(model, config).train()
    if way == "packed-compiled":
        assert compile_layers(model), "no compiler was found"
    return model


def product_gflops() -> float:
    """Return the f32 speed of the model's feed-forward product, 10^9 operations a second."""
    import torch

    x, weight = torch.ones(512, 576), torch.ones(1536, 576)
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        x @ weight.T
        best = min(best, time.perf_counter() - start)
    return 2 * x.numel() * weight.shape[0] / best / 1e9


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return everything, held against the aims; the losses must agree."""
    for trials in results.values():
        first, *others = (one["losses"] for one in trials.values())
        for other in others:
            assert all(abs(a - b) < 2e-3 for a, b in zip(first, other, strict=True)), (first, other)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    against = {
        shape: {
            "times_faster": best["tokens_per_second"] / trials["peft"]["tokens_per_second"],
            "memory": best["peak_bytes"] / trials["peft"]["peak_bytes"],
            "share": best["share"],
        }
        for shape, trials in results.items()
        if "peft" in trials and (best := trials.get("packed-compiled", trials.get("packed")))
    }
    return {
        "benchmark": "train_step",
        "commit": commit,
        "device": platform.processor() or platform.machine(),
        "results": results,
        "against_peft": against,
        "aims": {"times_faster": AIM_TIMES_FASTER, "share": AIM_SHARE, "memory": AIM_MEMORY},
    }


if __name__ == "__main__":
    main()
