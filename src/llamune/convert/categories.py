"""Which tensors a quantizer touches, and what each is to it.

Source: `tensor_allows_quantization` and `tensor_get_category` of llama.cpp's `llama-quant.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from llamune.gguf import TensorInfo

__all__ = ["Category", "category_of", "is_quantizable"]


class Category(StrEnum):
    """What a tensor is to the rules that choose its type."""

    OUTPUT = "output"
    EMBEDDING = "embedding"
    ATTENTION_Q = "attention q"
    ATTENTION_K = "attention k"
    ATTENTION_V = "attention v"  # also fused q, k, v: as sensitive as v
    ATTENTION_OUTPUT = "attention output"
    FFN_UP = "ffn up"
    FFN_GATE = "ffn gate"
    FFN_DOWN = "ffn down"
    OTHER = "other"


EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
PARTS_OF_NAMES = (  # the first that occurs in a name decides
    ("attn_qkv.weight", Category.ATTENTION_V),
    ("attn_kv_b.weight", Category.ATTENTION_V),
    ("attn_v.weight", Category.ATTENTION_V),
    ("attn_k.weight", Category.ATTENTION_K),
    ("attn_q.weight", Category.ATTENTION_Q),
    ("attn_output.weight", Category.ATTENTION_OUTPUT),
    ("ffn_up", Category.FFN_UP),
    ("ffn_gate", Category.FFN_GATE),
    ("ffn_down", Category.FFN_DOWN),
)

KEPT_NAMES = {"position_embd.weight", "token_types.weight"}
KEPT_PARTS = (  # tensors with one of these in their names are small, or break when rounded
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    *(
        f"time_mix_{name}.weight"
        for name in (
            "first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2",
            "decay_w1", "decay_w2", "lerp_fused",
        )
    ),
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)  # fmt: skip
KEPT_IN_FAMILY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "glm5-next": (
            "hc_",
            "indexer.attn_q_b",
            "indexer.attn_k",
            "indexer.proj",
            "indexer_compressor_gate",
            "indexer_compressor_ape",
            *(f"ssm_{name}.weight" for name in ("f_a", "f_b", "g_a", "g_b", "beta")),
            *(f"attn_{name}.weight" for name in ("kv_a_mqa", "k_b", "v_b")),
        )
    }
)


def category_of(name: str) -> Category:
    """Return what a tensor is to the rules, from its name."""
    if name == "output.weight":
        return Category.OUTPUT
    if name in EMBEDDINGS:
        return Category.EMBEDDING
    return next((kind for part, kind in PARTS_OF_NAMES if part in name), Category.OTHER)


def is_quantizable(tensor: TensorInfo, architecture: str) -> bool:
    """Whether a quantizer may change how a tensor is stored."""
    name = tensor.name
    n_dimensions = len(tensor.shape)
    for size in tensor.shape:  # rows first: leading ones are no dimensions to ggml
        if size != 1:
            break
        n_dimensions -= 1
    kept = (*KEPT_PARTS, *KEPT_IN_FAMILY.get(architecture, ()))
    return (
        n_dimensions >= 2
        and name.endswith("weight")
        and name not in KEPT_NAMES
        and not any(part in name for part in kept)
    )
