"""What Gemma 2 and Gemma 3 have in common.

Norms before and after each part, with weights kept plus one in the file; an embedding scaled by
sqrt(d_model); layers with a window between layers that see all; GELU in its tanh form; activations
that overflow f16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamune.arch.described import Config
from llamune.arch.family import Family, OffsetNorm, Sizes
from llamune.arch.keys import Keys, common_keys
from llamune.arch.parts import dense_family, plain_block

__all__ = ["common_gemma_keys", "gemma_family", "layer_types"]

NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GELU = "gelu_pytorch_tanh"


def gemma_family(
    keys: Keys,
    sizes: Sizes,
    *,
    model_type: str,
    config_class: str,
    model_class: str,
    layers_of_27b: int,
    config: Mapping[str, Any],
    qk_norm: bool = False,
) -> Family:
    """Return a Gemma as data.

    Args:
        keys: of the file.
        sizes: read from them.
        model_type: as in `config.json`.
        config_class: transformers' class for it.
        model_class: transformers' class of the model.
        layers_of_27b: by which llama.cpp knows the 27B, which scales queries otherwise.
        config: its entries beyond those that every Gemma has.
        qk_norm: whether q and k are normed per head.
    """
    return dense_family(
        keys,
        sizes,
        model_type=model_type,
        config_class=config_class,
        model_class=model_class,
        config={
            "hidden_activation": GELU,
            "attention_bias": False,
            "query_pre_attn_scalar": query_scalar(
                sizes.n_layer,
                sizes.d_model,
                sizes.n_head,
                sizes.head_dim,
                layers_of_27b=layers_of_27b,
            ),
            "sliding_window": sizes.sliding_window,
            **config,
        },
        block=plain_block(sizes, norms=NORMS, qk_norm=qk_norm, norm_transform=OffsetNorm()),
        norm_transform=OffsetNorm(),
        bf16_only=True,
    )


def common_gemma_keys(config: Config, *, layers_of_27b: int) -> dict[str, Any]:
    """Return the keys that every Gemma has, from a transformers config.

    Raises:
        UnsupportedError: an entry is not implemented.
    """
    config.refuse_unless("hidden_activation", GELU)
    config.refuse_unless("attention_bias", False)
    config.refuse_unless("use_bidirectional_attention", False)
    keys = common_keys(config, head_dim=True)
    scalar = query_scalar(
        keys["block_count"],
        keys["embedding_length"],
        keys["attention.head_count"],
        keys["attention.key_length"],
        layers_of_27b=layers_of_27b,
    )
    config.refuse_unless("query_pre_attn_scalar", scalar)
    return {**keys, "attention.sliding_window": config.integer("sliding_window")}


def layer_types(n_layer: int, period: int) -> list[str]:
    """Return transformers' name of each layer's kind: the last of each period sees all."""
    return [
        "sliding_attention" if (index + 1) % period else "full_attention"
        for index in range(n_layer)
    ]


def query_scalar(
    n_layer: int, d_model: int, n_head: int, head_dim: int, *, layers_of_27b: int
) -> int:
    """Return what queries are scaled by the root of.

    Source: llama.cpp's gemma2.cpp and gemma3.cpp, `f_attention_scale`.
    """
    return d_model // n_head if n_layer == layers_of_27b else head_dim
