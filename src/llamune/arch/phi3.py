"""Phi 3, 3.5 and 4, dense.

Unlike Llama: q, k and v are one matrix, so are gate and up; q/k rows keep transformers' order;
RoPE may turn only a part of each head (Phi 4 mini) and divide its frequencies by one table for
short and another for long contexts (longrope). llama.cpp applies no sliding window, so neither
do we.
Source: Phi-3 report, arXiv:2404.14219; LongRoPE, arXiv:2402.13753.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llamune.arch.described import Config, Described
from llamune.arch.family import Family, Sizes, TensorRule
from llamune.arch.keys import Keys, common_config, common_keys, rope_keys
from llamune.arch.parts import PRE_NORMS, extra_tensors, linear, model_rules, norm
from llamune.arch.registry import NewKeys, converts, register

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


@register("phi3")
def phi3(model: Described) -> Family:
    """Read a Phi 3 model."""
    keys = Keys(model)
    sizes = keys.sizes()
    if sizes.head_dim * sizes.n_head != sizes.d_model:
        raise keys.refuse("heads that do not fill the embedding")
    original = keys.integer("rope.scaling.original_context_length", sizes.context_length)
    config = common_config(keys, sizes)
    del config["head_dim"]  # this config class derives it
    config["pad_token_id"] = padding(config, sizes.n_vocab)
    return Family(
        name="phi3",
        sizes=sizes,
        model_type="phi3",
        config_class="Phi3Config",
        model_class="Phi3ForCausalLM",
        config={
            **config,
            "hidden_act": "silu",
            "original_max_position_embeddings": original,
            "rope_parameters": rope_parameters(keys, sizes, original),
            "sliding_window": None,
        },
        rules=model_rules(sizes, block(sizes), tied=keys.tied),
        tied=keys.tied,
        extra=extra_tensors(model),
    )


def padding(config: dict[str, Any], n_vocab: int) -> int | None:
    """Return the padding token; the config class's own default may lie outside the vocabulary."""
    found = config["pad_token_id"]
    return found if found is not None and found < n_vocab else None


def block(sizes: Sizes) -> list[TensorRule]:
    """Return the rules of one block."""
    d_model, d_ff = sizes.d_model, sizes.d_ff
    rows = (sizes.n_head + 2 * sizes.n_head_kv) * sizes.head_dim
    return [
        linear("self_attn.qkv_proj", "attn_qkv", (rows, d_model)),
        linear("self_attn.o_proj", "attn_output", (d_model, d_model)),
        linear("mlp.gate_up_proj", "ffn_up", (2 * d_ff, d_model)),
        linear("mlp.down_proj", "ffn_down", (d_model, d_ff)),
        *(norm(ours, file, d_model) for ours, file in PRE_NORMS.items()),
    ]


def rope_parameters(keys: Keys, sizes: Sizes, original: int) -> dict[str, Any]:
    """Return transformers' RoPE parameters, longrope where the file has its tables."""
    turned = keys.integer("rope.dimension_count", sizes.head_dim)
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": keys.number("rope.freq_base", 10000.0),
        "partial_rotary_factor": turned / sizes.head_dim,
    }
    if not keys.has_tensor(LONG):
        keys.refuse_scaling()
        return rope
    if not keys.has_tensor(SHORT):
        raise keys.refuse(f"{LONG} without {SHORT}")
    return {
        **rope,
        "rope_type": "longrope",
        "long_factor": keys.model.floats(LONG).reshape(-1).tolist(),
        "short_factor": keys.model.floats(SHORT).reshape(-1).tolist(),
        "original_max_position_embeddings": original,
        "attention_factor": keys.number("rope.scaling.attn_factor", 1.0),
    }


@converts("Phi3ForCausalLM")
def phi3_keys(config: Config) -> NewKeys:
    """Return the keys of a Phi 3 config."""
    config.refuse_unless("hidden_act", "silu")
    rope = config.rope()
    keys = common_keys(config, head_dim=False)
    part = float(rope.get("partial_rotary_factor", config.number("partial_rotary_factor", 1.0)))
    keys["rope.dimension_count"] = int(keys["rope.dimension_count"] * part)
    if rope.get("rope_type", "default") not in {"longrope", "su"}:
        return NewKeys(architecture="phi3", keys={**keys, **rope_keys(rope, config)})
    original = config.integer(
        "original_max_position_embeddings", rope.get("original_max_position_embeddings")
    )
    factor = attention_factor(rope, keys["context_length"], original)
    return NewKeys(
        architecture="phi3",
        keys={
            **keys,
            "rope.freq_base": float(rope["rope_theta"]),
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": factor,
        },
        tables={
            LONG: np.asarray(rope["long_factor"], dtype=np.float32),
            SHORT: np.asarray(rope["short_factor"], dtype=np.float32),
        },
    )


def attention_factor(rope: dict[str, Any], context: int, original: int) -> float:
    """Return what longrope multiplies cosines and sines by.

    Source: LongRoPE, section 3.3, sqrt(1 + ln s / ln original) for a context stretched by s.
    """
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    stretched = context / original
    return 1.0 if stretched <= 1.0 else float(np.sqrt(1 + np.log(stretched) / np.log(original)))
