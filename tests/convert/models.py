"""Small models with random weights, for quantizing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llamune.gguf import Entry, NewTensor, floats_to_rows, quant_type, write_gguf


def tensor(name: str, shape: tuple[int, ...], kind: str = "F32", *, seed: int = 0) -> NewTensor:
    chance = np.random.default_rng([seed, *name.encode()])
    floats = chance.standard_normal(shape).astype(np.float32)
    packed = floats_to_rows(floats.reshape(-1, shape[-1]), quant_type(kind))
    return NewTensor(name, shape, quant_type(kind), lambda: [packed])


def llama(
    path: Path,
    *,
    n_layer: int = 4,
    width: int = 256,
    kind: str = "F32",
    tied: bool = False,
    n_head: int = 4,
    n_head_kv: int = 1,
    extra: Mapping[str, Entry] | None = None,
) -> Path:
    """Write a llama model that has every tensor and hardly any weights."""
    keys = {
        "general.architecture": Entry.of("llama"),
        "general.file_type": Entry.of(0),
        "general.name": Entry.of("tiny"),
        "llama.block_count": Entry.of(n_layer),
        "llama.context_length": Entry.of(64),
        "llama.embedding_length": Entry.of(width),
        "llama.feed_forward_length": Entry.of(2 * width),
        "llama.attention.head_count": Entry.of(n_head),
        "llama.attention.head_count_kv": Entry.of(n_head_kv),
        "llama.attention.layer_norm_rms_epsilon": Entry.of(1e-5),
        "llama.rope.dimension_count": Entry.of(width // n_head),
        "tokenizer.ggml.model": Entry.of("gpt2"),
        "tokenizer.ggml.pre": Entry.of("smollm"),
        "tokenizer.ggml.tokens": Entry.of([f"t{i}" for i in range(40)]),
        "tokenizer.ggml.token_type": Entry.of([1] * 40),
        "tokenizer.ggml.merges": Entry.of(["t 0"]),
        **(extra or {}),
    }
    kv = width * n_head_kv // n_head
    tensors = [tensor("token_embd.weight", (40, width), kind)]
    for block in range(n_layer):
        shapes = {
            "attn_q": (width, width),
            "attn_k": (kv, width),
            "attn_v": (kv, width),
            "attn_output": (width, width),
            "ffn_gate": (2 * width, width),
            "ffn_up": (2 * width, width),
            "ffn_down": (width, 2 * width),
        }
        norms = ("attn_norm", "ffn_norm")
        tensors += [tensor(f"blk.{block}.{name}.weight", (width,)) for name in norms]
        tensors += [
            tensor(f"blk.{block}.{name}.weight", shape, kind) for name, shape in shapes.items()
        ]
    tensors.append(tensor("output_norm.weight", (width,)))
    if not tied:
        tensors.append(tensor("output.weight", (40, width), kind))
    write_gguf(path, metadata=keys, tensors=tensors)
    return path
