"""Models known by their published sizes, for plans when the file is not there."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from llamune.convert import ModelShape, choose_types, file_type
from llamune.errors import LlamuneError
from llamune.gguf import TensorInfo, quant_type
from llamune.plan.shape import Linear, Shape

__all__ = ["known_models", "published_license", "published_shape"]

F16, F32 = quant_type("F16"), quant_type("F32")
TOKENIZER_BYTES_PER_TOKEN = 24  # text, score and type of a token; merges are about as much again
FUSED = {"phi3"}  # families whose q, k, v and gate, up lie in one matrix each
FOUR_NORMS = {"gemma2", "gemma3"}
HEAD_NORMS = {"qwen3", "gemma3"}
BIASED = {"qwen2"}


@cache
def tables() -> Mapping[str, Mapping[str, Any]]:
    """Return the built-in data: `models` by name, and `latest`: name without tag → name."""
    text = resources.files(__package__).joinpath("models.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def known_models() -> Mapping[str, Mapping[str, Any]]:
    """Return the published sizes by model name."""
    return tables()["models"]


def full_name(name: str) -> str:
    """Return a model's name with its tag: `phi3.5` and `phi3.5:latest` are `phi3.5:3.8b`."""
    short = name.lower().removesuffix(":latest")
    return str(tables()["latest"].get(short, short))


def published_license(name: str) -> str:
    """Return the identifier of a known model's licence, as its maker's card gives it."""
    return str(known_models()[full_name(name)]["license"])


def published_shape(name: str, *, kind: str | None = None) -> Shape:
    """Return the numbers of a model that is not at hand.

    Args:
        name: such as `gemma2:9b`.
        kind: file type; default the one that it is usually distributed as.

    Raises:
        LlamuneError: it is not among the published ones.
    """
    asked, name = name, full_name(name)
    entry = known_models().get(name)
    if entry is None:
        raise LlamuneError(
            f"{asked}: neither in a store nor among the models known by their published sizes",
            hint=f"known: {', '.join(known_models())}",
        )
    chosen = file_type(kind or entry["file_type"])
    sizes = {key: entry[key] for key in SIZE_KEYS}
    tensors = tensors_of(entry)
    rules = ModelShape(
        architecture=entry["architecture"],
        n_layer=entry["n_layer"],
        n_expert=0,
        n_shared=entry["n_head"] // entry["n_head_kv"],
        is_seventy_b=entry["n_layer"] == 80,
    )
    types = choose_types(tensors, chosen, rules)
    stored = {
        tensor.name: types[tensor.name].row_bytes(tensor.n_columns) * tensor.n_rows
        for tensor in tensors
    }
    header = entry["n_vocab"] * TOKENIZER_BYTES_PER_TOKEN
    return Shape(
        name=name,
        architecture=entry["architecture"],
        **sizes,
        linears=linears_of(entry),
        n_norms=4 if entry["architecture"] in FOUR_NORMS else 2,
        tied=entry["tied"],
        n_parameters=sum(tensor.n_elements for tensor in tensors),
        file_bytes=sum(stored.values()) + header,
        embedding_bytes=stored["token_embd.weight"],
        output_bytes=stored.get("output.weight", 0),
        file_type=chosen.name,
        sliding_window=entry.get("sliding_window"),
        n_window_layers=entry.get("n_window_layers", 0),
    )


SIZE_KEYS = (
    "n_layer",
    "d_model",
    "n_head",
    "n_head_kv",
    "head_dim",
    "d_ff",
    "n_vocab",
    "context_length",
)


def linears_of(entry: Mapping[str, Any]) -> tuple[Linear, ...]:
    """Return the linear layers of a block."""
    d_model, d_ff = entry["d_model"], entry["d_ff"]
    d_query = entry["n_head"] * entry["head_dim"]
    d_key = entry["n_head_kv"] * entry["head_dim"]
    if entry["architecture"] in FUSED:
        shapes = {
            "qkv_proj": (d_query + 2 * d_key, d_model),
            "o_proj": (d_model, d_query),
            "gate_up_proj": (2 * d_ff, d_model),
            "down_proj": (d_model, d_ff),
        }
    else:
        shapes = {
            "q_proj": (d_query, d_model),
            "k_proj": (d_key, d_model),
            "v_proj": (d_key, d_model),
            "o_proj": (d_model, d_query),
            "gate_proj": (d_ff, d_model),
            "up_proj": (d_ff, d_model),
            "down_proj": (d_model, d_ff),
        }
    return tuple(
        Linear(name=name, rows=rows, columns=columns) for name, (rows, columns) in shapes.items()
    )


GGUF_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "qkv_proj": "attn_qkv",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "gate_up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def tensors_of(entry: Mapping[str, Any]) -> list[TensorInfo]:
    """Return the tensors that a file of these sizes has, matrices in F16."""
    family, d_model = entry["architecture"], entry["d_model"]
    tensors = [tensor("token_embd.weight", entry["n_vocab"], d_model)]
    if not entry["tied"]:
        tensors.append(tensor("output.weight", entry["n_vocab"], d_model))
    tensors.append(vector("output_norm.weight", d_model))
    d_key = entry["n_head_kv"] * entry["head_dim"]
    for index in range(entry["n_layer"]):
        block = f"blk.{index}."
        tensors += [
            tensor(f"{block}{GGUF_NAMES[linear.name]}.weight", linear.rows, linear.columns)
            for linear in linears_of(entry)
        ]
        norms = ["attn_norm", "ffn_norm"]
        if family in FOUR_NORMS:
            norms += ["post_attention_norm", "post_ffw_norm"]
        tensors += [vector(f"{block}{norm}.weight", d_model) for norm in norms]
        if family in HEAD_NORMS:
            names = ("attn_q_norm", "attn_k_norm")
            tensors += [vector(f"{block}{norm}.weight", entry["head_dim"]) for norm in names]
        if family in BIASED:
            tensors.append(vector(f"{block}attn_q.bias", entry["n_head"] * entry["head_dim"]))
            tensors += [vector(f"{block}attn_{part}.bias", d_key) for part in "kv"]
    return tensors


def tensor(name: str, rows: int, columns: int) -> TensorInfo:
    """Return a matrix in F16."""
    return TensorInfo(name, (rows, columns), F16, 0, 2 * rows * columns)


def vector(name: str, size: int) -> TensorInfo:
    """Return a vector in F32."""
    return TensorInfo(name, (size,), F32, 0, 4 * size)
