"""A model with the shapes of gemma2:9b and random weights, and one real training step on it.

The process may not hold more than 16 GB of its own memory: `RLIMIT_DATA` bounds everything that
it allocates (the file is read, not mapped, so its weights are among that), and an allocation
beyond it fails. What is printed is the kernel's high-water mark of the resident set beside what
`plan` predicts for this very training.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llamune.gguf import Entry, ModelFile, NewTensor, floats_to_rows, quant_type, write_gguf

__all__ = ["one_step", "write_model"]

N_LAYER, D_MODEL, D_FF, N_VOCAB = 42, 3584, 14_336, 256_000
N_HEAD, N_HEAD_KV, HEAD_DIM = 16, 8, 256
MATRICES = {  # of a block: rows, columns
    "attn_q": (N_HEAD * HEAD_DIM, D_MODEL),
    "attn_k": (N_HEAD_KV * HEAD_DIM, D_MODEL),
    "attn_v": (N_HEAD_KV * HEAD_DIM, D_MODEL),
    "attn_output": (D_MODEL, N_HEAD * HEAD_DIM),
    "ffn_gate": (D_FF, D_MODEL),
    "ffn_up": (D_FF, D_MODEL),
    "ffn_down": (D_MODEL, D_FF),
}
NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
ROWS_AT_ONCE = 1024


def write_model(path: Path, *, n_layer: int, kind: str) -> None:
    """Write the model, its matrices of one quant type; the same random rows repeat in it."""
    random = np.random.default_rng(0)
    tensors = [matrix("token_embd", (N_VOCAB, D_MODEL), kind, random)]
    for block in range(n_layer):
        for name, shape in MATRICES.items():
            tensors.append(matrix(f"blk.{block}.{name}", shape, kind, random))
        tensors += [norm(f"blk.{block}.{name}") for name in NORMS]
    tensors.append(norm("output_norm"))
    keys: dict[str, Any] = {
        "block_count": n_layer,
        "context_length": 8192,
        "embedding_length": D_MODEL,
        "feed_forward_length": D_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD_KV,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "vocab_size": N_VOCAB,
    }
    metadata = {"general.architecture": Entry.of("gemma2"), "general.name": Entry.of("random 9B")}
    metadata |= {f"gemma2.{key}": Entry.of(value) for key, value in keys.items()}
    write_gguf(path, metadata=metadata, tensors=tensors, replace=True)


def matrix(name: str, shape: tuple[int, int], kind: str, random: np.random.Generator) -> NewTensor:
    """Return a random matrix to be written."""
    rows = random.normal(scale=shape[1] ** -0.5, size=(ROWS_AT_ONCE, shape[1])).astype(np.float32)
    packed = floats_to_rows(rows, quant_type(kind))

    def chunks() -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
        for start in range(0, shape[0], ROWS_AT_ONCE):
            yield packed[: min(ROWS_AT_ONCE, shape[0] - start)]

    return NewTensor(f"{name}.weight", shape, quant_type(kind), chunks)


def norm(name: str) -> NewTensor:
    """Return a norm of ones (the file's convention) to be written."""
    values = np.ones(D_MODEL, np.float32).tobytes()
    return NewTensor(f"{name}.weight", (D_MODEL,), quant_type("F32"), partial(iter, [values]))


def one_step(
    path: Path, *, limit_bytes: int, length: int, optimizer: str, threads: int
) -> dict[str, Any]:
    """Make one optimizer step on a file in this process; return its peak and the prediction."""
    import torch
    from benchmarks._full_case import random_records

    from llamune.arch import describe
    from llamune.nn import load
    from llamune.plan import plan_training
    from llamune.runs import Run, Situation, settle
    from llamune.train import packed_loop, train

    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    torch.set_num_threads(threads)
    file = ModelFile.open(path, mapped=False)
    family = describe(file)
    situation = Situation(n_records=1, longest_tokens=length, context_length=8192, d_model=D_MODEL)
    asked = {
        "base": str(path), "name": "nine", "data": "none", "method": "full", "steps": 1,
        "batch": 1, "optimizer": optimizer, "recompute": True, "evaluations": 0,
        "max_length": length, "checkpoint_minutes": 1e9, "compute_type": "float32",
    }  # fmt: skip
    recipe = settle(asked, situation)
    records = random_records(1, length=length, n_vocab=N_VOCAB)
    plan = plan_training(file, family, recipe, lengths=[length], compute_type="float32")
    model = load(file, family=family, device="cpu", dtype=torch.float32, compiled=False)
    make_loop = packed_loop(model, file, family, recipe)
    run = Run.create("nine", recipe=recipe)
    result = train(model, records, [], recipe=recipe, run=run, make_loop=make_loop)
    return {
        "layers": family.sizes.n_layer,
        "parameters_trained": result.parameters_trained,
        "file_bytes": file.size,
        "limit_bytes": limit_bytes,
        "limited_by": "RLIMIT_DATA",
        "peak_resident_bytes": result.peak_bytes,
        "predicted_bytes": plan.memory.total_bytes,
        "parts": {part.key: part.nbytes for part in plan.memory.parts},
        "step_seconds": result.seconds,
        "loss": result.training_loss,
        "tokens": length,
        "optimizer": optimizer,
    }
