"""Tokens a second, peak memory and loss of LoRA training, from the same GGUF file.

    python -m benchmarks.train                        # 1 × 512 and 4 × 512 tokens a step
    python -m benchmarks.train --rows 1 --steps 3     # a short look

Contestants: Llamune (packed weights, fused loss; layers compiled, and not); transformers + PEFT
from `gguf_file=` in float32, as loaded by default, and in bfloat16; on a CUDA device also
bitsandbytes NF4 where it is installed. Same text, same rank (8 on q/k/v/o), same tokens, same
AdamW; each in a process of its own, so that its peak is its own. Memory is counted above that of a
process that has imported the same libraries. Floating-point use is held against a matmul of the
model's shapes on the same machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pydoc_data.topics
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

RANK = 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
LEARNING_RATE = 5e-4
WARM_UP_STEPS = 2  # compilers and allocators settle
CONTESTANTS = ("llamune", "llamune-eager", "peft-f32", "peft-bf16", "nf4")
HOPELESS_SECONDS = 120.0  # a step this long is not repeated


def main() -> None:
    """Run every contestant, or be one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4], help="sequences a step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--be", choices=CONTESTANTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.be:
        print(json.dumps(compete(chosen.be, chosen.rows[0], chosen)))
        return
    results = []
    for rows in chosen.rows:
        for name in chosen.contestants:
            result = in_own_process(name, rows, chosen)
            print(json.dumps(result), flush=True)
            results.append(result)
    compare(results)
    print(json.dumps({"length": chosen.length, "steps": chosen.steps, "results": results}))


def in_own_process(name: str, rows: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what a contestant measured, or why it did not run."""
    if reason := missing(name):
        return {"contestant": name, "rows": rows, "skipped": reason}
    command = [
        sys.executable, "-m", "benchmarks.train", "--be", name, "--rows", str(rows),
        "--length", str(chosen.length), "--steps", str(chosen.steps),
        "--threads", str(chosen.threads),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"contestant": name, "rows": rows, "failed": done.stderr.strip()[-500:]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def missing(name: str) -> str | None:
    """Return what a contestant lacks here."""
    import torch

    if name == "nf4" and not torch.cuda.is_available():
        return "no CUDA device"
    if name == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed"
    return None


def compete(name: str, rows: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Load, train a few steps, and return the figures."""
    import peft  # noqa: F401  counted in the memory that everybody has
    import torch
    import transformers

    from llamune.train import PeakMemory, quiet, resident_bytes

    transformers.set_seed(0)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    libraries_bytes = 0 if device.type == "cuda" else resident_bytes()
    with quiet(), PeakMemory(device) as memory:
        began = time.perf_counter()
        step = BUILDERS[name](device)
        load_seconds = time.perf_counter() - began
        seconds, losses = [], []
        for ids in batches(rows, chosen.length, WARM_UP_STEPS + chosen.steps):
            began = time.perf_counter()
            losses.append(step(ids.to(device)))
            seconds.append(time.perf_counter() - began)
            if seconds[-1] > HOPELESS_SECONDS:
                break
    timed = seconds[WARM_UP_STEPS:] or seconds
    tokens = rows * chosen.length
    rate = tokens / statistics.median(timed)
    flops, peak = flops_and_peak(chosen.length, device)
    return {
        "contestant": name,
        "rows": rows,
        "tokens_per_second": round(rate, 1),
        "trials_seconds": [round(value, 3) for value in seconds],
        "peak_bytes_above_libraries": memory.highest_bytes - libraries_bytes,
        "peak_bytes": memory.highest_bytes,
        "load_seconds": round(load_seconds, 2),
        "losses": [round(loss, 4) for loss in losses],
        "share_of_matmul_peak": round(rate * flops / (peak * 1e9), 3),
        "matmul_gflops": round(peak, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


def batches(rows: int, length: int, steps: int) -> Iterator[Any]:
    """Yield token ids (rows, length) of English technical prose, the same for everybody."""
    import torch

    from llamune.gguf import ModelFile
    from llamune.store import starter
    from llamune.text import tokenizer_of

    text = "\n\n".join(pydoc_data.topics.topics.values())
    with ModelFile.open(starter.fetch()) as file:
        ids = torch.tensor(tokenizer_of(file).encode(text))
    for number in range(steps):
        start = number * rows * length
        yield ids[start : start + rows * length].reshape(rows, length)


def stepper(model: Any) -> Callable[[Any], float]:
    """Return a function that makes one AdamW step and returns the loss."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    model.train()

    def step(ids: Any) -> float:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def lora(model: Any) -> Any:
    """Return the model with the adapter that everybody trains."""
    import transformers
    from peft import LoraConfig, get_peft_model

    transformers.set_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=32, target_modules=list(TARGETS), bias="none", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def llamune_step(device: Any, *, compiled: bool) -> Callable[[Any], float]:
    """Llamune as `tune` trains."""
    from llamune.arch import describe
    from llamune.gguf import ModelFile
    from llamune.nn import choose_compute, compile_layers, load
    from llamune.store import starter

    file = ModelFile.open(starter.fetch())
    family = describe(file)
    compute = choose_compute(family, device)
    model = load(file, family=family, device=device, dtype=compute.torch_dtype, compiled=compiled)
    model = lora(model)
    compile_layers(model, compiled=compiled)
    return stepper(model)


def peft_model(device: Any, dtype: str) -> Any:
    """Return transformers' model from the GGUF file, with PEFT."""
    import torch
    from transformers import AutoModelForCausalLM

    from llamune.store import starter

    path = starter.fetch()
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=getattr(torch, dtype)
    )
    return lora(model.to(device))


def nf4_step(device: Any) -> Callable[[Any], float]:
    """QLoRA: the same weights rounded to NF4 by bitsandbytes."""
    import tempfile

    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from llamune.store import starter

    path = starter.fetch()
    dense = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.bfloat16
    )
    with tempfile.TemporaryDirectory() as folder:
        dense.save_pretrained(folder)
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=settings, device_map={"": device}
        )
    return stepper(lora(prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)))


BUILDERS: dict[str, Callable[[Any], Callable[[Any], float]]] = {
    "llamune": lambda device: llamune_step(device, compiled=True),
    "llamune-eager": lambda device: llamune_step(device, compiled=False),
    "peft-f32": lambda device: stepper(peft_model(device, "float32")),
    "peft-bf16": lambda device: stepper(peft_model(device, "bfloat16")),
    "nf4": nf4_step,
}


def flops_and_peak(length: int, device: Any) -> tuple[float, float]:
    """Return operations a trained token, and the matmul speed in 10^9 operations a second."""
    from llamune.arch import describe
    from llamune.gguf import ModelFile
    from llamune.nn import choose_compute
    from llamune.store import starter

    with ModelFile.open(starter.fetch()) as file:
        family = describe(file)
        flops = family.flops_per_token(length, training="lora")
        return flops, choose_compute(family, device).gflops


def compare(results: list[dict[str, Any]]) -> None:
    """Print how many times faster Llamune is, and what share of the memory it takes."""
    for rows in sorted({result["rows"] for result in results}):
        here = {r["contestant"]: r for r in results if r["rows"] == rows and "losses" in r}
        ours = here.get("llamune") or here.get("llamune-eager")
        if ours is None:
            continue
        for name, other in here.items():
            speed = ours["tokens_per_second"] / other["tokens_per_second"]
            memory = ours["peak_bytes_above_libraries"] / other["peak_bytes_above_libraries"]
            drift = max(abs(a - b) for a, b in zip(ours["losses"], other["losses"], strict=False))
            print(
                f"{rows} rows: {speed:.2f} × the speed of {name}, {memory:.2f} of its memory, "
                f"losses differ by {drift:.4f} at most",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
