"""Headers of models of many families: real block counts, small rows, no data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamune.gguf import Entry, NewTensor, header_bytes, quant_type

WIDTH, WIDE, ROWS = 512, 1024, 64


@dataclass(frozen=True)
class Shape:
    """What the rules of type choice may ask about a model; `width` of the rows."""

    architecture: str
    n_layer: int
    n_head: int = 8
    n_head_kv: int = 2
    n_expert: int = 0
    tied: bool = False
    fused: bool = False
    width: int = WIDTH
    gate: bool = True


FAMILIES = {
    "llama-8b": Shape("llama", 32),
    "llama-1b-tied": Shape("llama", 16, tied=True),
    "llama-no-sharing": Shape("llama", 32, n_head_kv=8),
    "llama-70b": Shape("llama", 80, n_head_kv=1),
    "starter": Shape("llama", 30, n_head=9, n_head_kv=3, tied=True, width=576),
    "mixtral-8x7b": Shape("llama", 32, n_expert=8),
    "qwen2-7b": Shape("qwen2", 28, n_head_kv=1),
    "qwen2-72b": Shape("qwen2", 80, n_head_kv=1),
    "qwen3-8b": Shape("qwen3", 36),
    "qwen3moe-30b": Shape("qwen3moe", 48, n_head_kv=1, n_expert=128),
    "gemma2-9b": Shape("gemma2", 42, n_head_kv=4, tied=True),
    "gemma3-4b": Shape("gemma3", 34, n_head_kv=4, tied=True),
    "phi3-mini": Shape("phi3", 32, n_head_kv=8, fused=True, gate=False),
    "falcon-7b": Shape("falcon", 32, n_head_kv=1, fused=True, gate=False),
    "gpt-oss-20b": Shape("gpt-oss", 24, n_head_kv=1, n_expert=32),
}


def metadata(shape: Shape) -> dict[str, Entry]:
    """Return the keys that llama.cpp asks for before it chooses types."""
    keys: dict[str, object] = {
        "context_length": 64,
        "embedding_length": shape.width,
        "block_count": shape.n_layer,
        "feed_forward_length": 2 * shape.width,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv,
        "attention.key_length": 64,
        "attention.value_length": 64,
        "rope.dimension_count": 64,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.sliding_window": 32,
        "rope.scaling.original_context_length": 64,
    }
    if shape.n_expert:
        keys |= {
            "expert_count": shape.n_expert,
            "expert_used_count": 2,
            "expert_feed_forward_length": shape.width,
        }
    entries = {f"{shape.architecture}.{key}": Entry.of(value) for key, value in keys.items()}
    return {"general.architecture": Entry.of(shape.architecture), **entries}


def tensors(shape: Shape) -> Iterator[NewTensor]:
    """Yield the tensors, in the order in which converters write them."""
    width = shape.width
    yield tensor("token_embd.weight", ROWS, width)
    for block in range(shape.n_layer):
        for name, sizes in block_tensors(shape).items():
            yield tensor(f"blk.{block}.{name}.weight", *sizes)
    yield tensor("output_norm.weight", width)
    if not shape.tied:
        yield tensor("output.weight", ROWS, width)


def block_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return name → sizes of a block's tensors."""
    width = shape.width
    found: dict[str, tuple[int, ...]] = {"attn_norm": (width,), "attn_output": (ROWS, width)}
    if shape.fused:
        found["attn_qkv"] = (ROWS, width)
    else:
        found |= {f"attn_{name}": (ROWS, width) for name in "qkv"}
    stack: tuple[int, ...] = ()
    ending = ""
    if shape.n_expert:
        found["ffn_gate_inp"] = (shape.n_expert, width)
        stack, ending = (2,), "_exps"  # the rules ask whether there are several, not how many
    if shape.gate:
        found[f"ffn_gate{ending}"] = (*stack, ROWS, width)
    found[f"ffn_up{ending}"] = (*stack, ROWS, width)
    found[f"ffn_down{ending}"] = (*stack, ROWS, 2 * width)
    return found


def tensor(name: str, *sizes: int) -> NewTensor:
    kind = "F16" if len(sizes) > 1 else "F32"
    return NewTensor(name, sizes, quant_type(kind), lambda: iter(()))


def write_sparse(path: Path, shape: Shape) -> Path:
    """Write a model whose data is a hole: it takes no room on the disk."""
    new = list(tensors(shape))
    header = header_bytes(metadata(shape), new)
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(-(-one.nbytes // 32) * 32 for one in new))
    return path
