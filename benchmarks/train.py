"""Tokens a second, peak memory and loss of LoRA training, from the same GGUF file.

    python -m benchmarks train                        # 1 × 512 and 4 × 512 tokens a step
    python -m benchmarks train --rows 1 --steps 3     # a short look

Contestants: Llamune (packed weights, fused loss; `llamune-eager` leaves layers uncompiled);
transformers + PEFT from `gguf_file=` in float32, as loaded by default, and in bfloat16; TRL's
SFTTrainer in float32, its own loop, on the same weights as safetensors; on a CUDA device also
bitsandbytes NF4, NF4 with Liger's kernels, and Unsloth, where they are installed. Same text, same
rank (8 on q/k/v/o), same tokens, same AdamW; each in a process of its own, so that its peak is its
own. Memory is counted above that of a process that has imported the same libraries. Floating-point
use is held against matrix products of the model's own shapes on the same machine, in float32 and in
bfloat16. A contestant whose step would take minutes by that measure is left out, and it says so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import pydoc_data.topics
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RANK = 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
LEARNING_RATE = 5e-4
WARM_UP_STEPS = 2  # compilers and allocators settle
CONTESTANTS = ("llamune", "peft-f32", "peft-bf16", "trl", "nf4", "liger", "unsloth")
MORE_CONTESTANTS = ("llamune-eager",)
ON_CUDA = {"nf4": ["bitsandbytes"], "liger": ["bitsandbytes", "liger_kernel"],
           "unsloth": ["unsloth"]}  # fmt: skip
HOPELESS_SECONDS = 30.0  # a step this long is not made
HOPELESS_TRIAL = 0.01  # seconds; a product of 64 rows takes less than one on any fit machine
PEAK_TRIALS, PEAK_SECONDS = 5, 0.2  # best of so many, each at least this long


def main() -> None:
    """Run every contestant, or be one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4], help="sequences a step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS))
    parser.add_argument(
        "--be", choices=(*CONTESTANTS, *MORE_CONTESTANTS, "matmul"), help=argparse.SUPPRESS
    )
    chosen = parser.parse_args()
    if chosen.be:
        figures = matmul_peaks(chosen) if chosen.be == "matmul" else compete(chosen.be, chosen)
        print(json.dumps(figures))
        return
    peaks = be("matmul", chosen.rows[-1], chosen)
    print(json.dumps(peaks), flush=True)
    results = []
    for rows in chosen.rows:
        for name in chosen.contestants:
            result = in_own_process(name, rows, chosen, peaks)
            print(json.dumps(result), flush=True)
            results.append(result)
    ratios = [ratio for rows in chosen.rows for ratio in compared(results, rows)]
    for ratio in ratios:
        print(sentence(ratio), file=sys.stderr)
    print(
        json.dumps(
            {
                "length": chosen.length,
                "steps": chosen.steps,
                "matmul": peaks,
                "results": results,
                "ratios": ratios,
            }
        )
    )


def in_own_process(
    name: str, rows: int, chosen: argparse.Namespace, peaks: dict[str, Any]
) -> dict[str, Any]:
    """Return what a contestant measured, or why it did not run."""
    seconds = rows * chosen.length * peaks["flops_a_token"] / (peaks[dtype_of(name)] * 1e9)
    reason = missing(name)
    if reason is None and seconds > HOPELESS_SECONDS:
        reason = f"at {peaks[dtype_of(name)]} GFLOP/s a step would take {seconds:.0f} s at least"
    if reason is not None:
        return {"contestant": name, "rows": rows, "skipped": reason}
    try:
        result = be(name, rows, chosen)
    except subprocess.CalledProcessError as error:
        return {"contestant": name, "rows": rows, "failed": error.stderr.strip()[-500:]}
    flops = result["tokens_per_second"] * peaks["flops_a_token"]
    return result | {
        "share_of_float32_matmul": round(flops / (peaks["float32"] * 1e9), 3),
        "share_of_bfloat16_matmul": round(flops / (peaks["bfloat16"] * 1e9), 3),
    }


def be(name: str, rows: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what this script prints as a contestant, in a process of its own."""
    command = [
        sys.executable, "-m", "benchmarks.train", "--be", name, "--rows", str(rows),
        "--length", str(chosen.length), "--steps", str(chosen.steps),
        "--threads", str(chosen.threads),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def dtype_of(name: str) -> str:
    """Return what a contestant computes in; Llamune in the faster one, so it is never hopeless."""
    return "bfloat16" if name in {"peft-bf16", *ON_CUDA} else "float32"


def missing(name: str) -> str | None:
    """Return what a contestant lacks here."""
    import torch

    needed = ON_CUDA.get(name, ["trl"] if name == "trl" else [])
    if name in ON_CUDA and not torch.cuda.is_available():
        return "no CUDA device"
    lacking = [library for library in needed if importlib.util.find_spec(library) is None]
    return f"{' and '.join(lacking)} not installed" if lacking else None


def compete(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Load, train a few steps, and return the figures."""
    import peft  # noqa: F401  counted in the memory that everybody has
    import torch
    import transformers

    from llamune.train import PeakMemory, quiet, resident_bytes

    rows = chosen.rows[0]
    if name == "trl":
        importlib.import_module("trl")
    transformers.set_seed(0)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    libraries_bytes = 0 if device.type == "cuda" else resident_bytes()
    data = list(batches(rows, chosen.length, WARM_UP_STEPS + chosen.steps))
    with quiet(), PeakMemory(device) as memory:
        began = time.perf_counter()
        race = BUILDERS[name](device)
        load_seconds = time.perf_counter() - began
        seconds, losses = race([ids.to(device) for ids in data])
    timed = seconds[WARM_UP_STEPS:]
    tokens = rows * chosen.length
    return {
        "contestant": name,
        "rows": rows,
        "tokens_per_second": round(tokens / statistics.median(timed), 1),
        "slowest_tokens_per_second": round(tokens / max(timed), 1),
        "fastest_tokens_per_second": round(tokens / min(timed), 1),
        "trials_seconds": [round(value, 3) for value in seconds],
        "peak_bytes_above_libraries": memory.highest_bytes - libraries_bytes,
        "peak_bytes": memory.highest_bytes,
        "load_seconds": round(load_seconds, 2),
        "losses": [round(loss, 4) for loss in losses],
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


Race = Callable[[Sequence[Any]], tuple[list[float], list[float]]]
"""trains on batches of ids (rows, length); returns the seconds and the loss of each step"""


def plain_loop(model: Any) -> Race:
    """Return a plain loop: forward, backward, AdamW."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    model.train()

    def race(data: Sequence[Any]) -> tuple[list[float], list[float]]:
        seconds, losses = [], []
        for ids in data:
            began = time.perf_counter()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))  # waits for the device
            seconds.append(time.perf_counter() - began)
        return seconds, losses

    return race


def trl_loop(device: Any) -> Race:
    """TRL's SFTTrainer with its own loop; it refuses a model that came from `gguf_file=`."""
    import torch
    from transformers import AutoModelForCausalLM

    with dense_folder("F32") as folder:
        model = lora(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device))

    def race(data: Sequence[Any]) -> tuple[list[float], list[float]]:
        from transformers import TrainerCallback

        dataset = importlib.import_module("datasets").Dataset
        trl = importlib.import_module("trl")

        marks: list[float] = []

        class Clock(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                marks.append(time.perf_counter())

            def on_step_end(self, *_: Any, **__: Any) -> None:
                marks[-1] = time.perf_counter() - marks[-1]

        rows = [row.tolist() for ids in data for row in ids]
        with tempfile.TemporaryDirectory() as folder:
            settings = trl.SFTConfig(
                output_dir=folder, per_device_train_batch_size=len(data[0]),
                max_steps=len(data), learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
                weight_decay=0.0, max_grad_norm=0.0, max_length=len(rows[0]), packing=False,
                bf16=False, gradient_checkpointing=False, logging_steps=1, save_strategy="no",
                report_to="none", use_cpu=device.type == "cpu", disable_tqdm=True,
                train_sampling_strategy="sequential", dataloader_pin_memory=False,
                dataset_kwargs={"skip_prepare_dataset": True},
            )  # fmt: skip
            trainer = trl.SFTTrainer(
                model=model,
                args=settings,
                train_dataset=dataset.from_dict({"input_ids": rows}),
                processing_class=tokenizer(),
                callbacks=[Clock()],
            )
            trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        return marks, losses

    return race


def tokenizer() -> Any:
    """Return transformers' tokenizer of the starter; TRL wants one though the text is ids."""
    from transformers import AutoTokenizer

    from llamune.store import starter

    path = starter.fetch()
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def lora(model: Any, *, packed: bool = False) -> Any:
    """Return the model with the adapter that everybody trains, in our layers where it is packed."""
    import transformers
    from peft import LoraConfig, get_peft_model

    transformers.set_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=32, target_modules=list(TARGETS), bias="none", task_type="CAUSAL_LM"
    )
    if packed:
        from llamune.train import with_packed_layers

        config = with_packed_layers(config)
    return get_peft_model(model, config)


def llamune_loop(device: Any, *, compiled: bool) -> Race:
    """Llamune as `tune` trains."""
    from llamune.arch import describe
    from llamune.gguf import ModelFile
    from llamune.nn import choose_compute, compile_layers, load
    from llamune.store import starter

    file = ModelFile.open(starter.fetch())
    family = describe(file)
    compute = choose_compute(family, device)
    model = load(file, family=family, device=device, dtype=compute.torch_dtype, compiled=compiled)
    model = lora(model, packed=True)
    compile_layers(model, compiled=compiled)
    return plain_loop(model)


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


def nf4_loop(device: Any, *, liger: bool = False) -> Race:
    """QLoRA: the same weights rounded to NF4 by bitsandbytes; with Liger's kernels on request."""
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if liger:
        importlib.import_module("liger_kernel.transformers").apply_liger_kernel_to_llama()
    with dense_folder("BF16") as folder:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=settings, device_map={"": device}
        )
    prepared = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return plain_loop(lora(prepared))


def unsloth_loop(device: Any) -> Race:
    """Unsloth's own 4-bit loading, kernels and adapter."""
    loader = importlib.import_module("unsloth").FastLanguageModel
    _ = device  # Unsloth takes the first GPU by itself
    with dense_folder("BF16") as folder:
        model, _tokenizer = loader.from_pretrained(folder, max_seq_length=2048, load_in_4bit=True)
        model = loader.get_peft_model(
            model, r=RANK, lora_alpha=32, lora_dropout=0.0, target_modules=list(TARGETS),
            bias="none", use_gradient_checkpointing=False, random_state=0,
        )  # fmt: skip
    return plain_loop(model)


@contextmanager
def dense_folder(kind: str) -> Iterator[str]:
    """Yield a transformers folder of the starter: transformers cannot save what it read of GGUF."""
    from llamune.convert import to_transformers
    from llamune.gguf import ModelFile
    from llamune.store import starter

    with tempfile.TemporaryDirectory() as scratch, ModelFile.open(starter.fetch()) as file:
        folder = Path(scratch) / "starter"
        to_transformers(file, folder, kind)
        yield str(folder)


BUILDERS: dict[str, Callable[[Any], Race]] = {
    "llamune": lambda device: llamune_loop(device, compiled=True),
    "llamune-eager": lambda device: llamune_loop(device, compiled=False),
    "peft-f32": lambda device: plain_loop(peft_model(device, "float32")),
    "peft-bf16": lambda device: plain_loop(peft_model(device, "bfloat16")),
    "trl": trl_loop,
    "nf4": nf4_loop,
    "liger": lambda device: nf4_loop(device, liger=True),
    "unsloth": unsloth_loop,
}


def matmul_peaks(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return operations a trained token, and the matmul speed in each type, 10^9 a second."""
    import torch

    from llamune.arch import describe
    from llamune.gguf import ModelFile
    from llamune.store import starter

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ModelFile.open(starter.fetch()) as file:
        family = describe(file)
        shapes = Counter(rule.shape for rule in family.linear_modules("all").values())
        flops = family.flops_per_token(chosen.length, training="lora")
    n_tokens = chosen.rows[-1] * chosen.length
    return {
        "flops_a_token": flops,
        **{
            name: round(matmul_gflops(shapes, n_tokens, getattr(torch, name), device), 1)
            for name in ("float32", "bfloat16")
        },
    }


def matmul_gflops(shapes: Counter[Any], n_tokens: int, dtype: Any, device: Any) -> float:
    """Return how fast the model's own matrix products go, each shape as often as it has it.

    Args:
        shapes: (rows, columns) of the weights, counted.
        n_tokens: rows of the other factor; fewer where a type is hopeless on this machine.
        dtype: what is multiplied.
        device: where.
    """
    import torch

    seconds = operations = 0.0
    few = best_seconds(torch, (64, 576), (64, 576), dtype, device, trials=1) > HOPELESS_TRIAL
    n = 64 if few else n_tokens
    for (rows, columns), count in shapes.items():
        took = best_seconds(
            torch, (n, columns), (rows, columns), dtype, device, trials=1 if few else PEAK_TRIALS
        )
        seconds += count * took
        operations += count * 2.0 * n * rows * columns
    return operations / seconds / 1e9


def best_seconds(
    torch: Any,
    left: tuple[int, int],
    right: tuple[int, int],
    dtype: Any,
    device: Any,
    *,
    trials: int,
) -> float:
    """Return the seconds of one product left · rightᵀ, the best of some trials."""
    x = torch.randn(left, device=device).to(dtype)
    weight = torch.randn(right, device=device).to(dtype)
    found = []
    for _ in range(trials):
        n, began = 0, time.perf_counter()
        while n == 0 or time.perf_counter() - began < PEAK_SECONDS:
            x @ weight.T
            if device.type == "cuda":
                torch.cuda.synchronize()
            n += 1
        found.append((time.perf_counter() - began) / n)
    return min(found)


def compared(results: Sequence[dict[str, Any]], rows: int) -> Iterator[dict[str, Any]]:
    """Yield how many times faster Llamune is than each other, and what share of memory it takes."""
    here = {r["contestant"]: r for r in results if r["rows"] == rows and "losses" in r}
    ours = here.get("llamune")
    for name, other in here.items():
        if ours is None or name == "llamune":
            continue
        memory = ours["peak_bytes_above_libraries"] / other["peak_bytes_above_libraries"]
        drift = max(abs(a - b) for a, b in zip(ours["losses"], other["losses"], strict=False))
        slowest = ours["slowest_tokens_per_second"] / other["fastest_tokens_per_second"]
        fastest = ours["fastest_tokens_per_second"] / other["slowest_tokens_per_second"]
        yield {
            "rows": rows,
            "against": name,
            "speed": round(ours["tokens_per_second"] / other["tokens_per_second"], 3),
            "speed_spread": [round(slowest, 3), round(fastest, 3)],
            "memory": round(memory, 3),
            "losses_differ_by": round(drift, 4),
        }


def sentence(ratio: dict[str, Any]) -> str:
    """Return a comparison in words; the spread is of single steps against single steps."""
    low, high = ratio["speed_spread"]
    return (
        f"{ratio['rows']} rows: {ratio['speed']:.2f} × the speed of {ratio['against']} "
        f"({low:.2f}–{high:.2f}), {ratio['memory']:.2f} of its memory, "
        f"losses differ by {ratio['losses_differ_by']:.4f} at most"
    )


if __name__ == "__main__":
    main()
