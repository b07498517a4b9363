"""Llama 1 to 3.3, and what is stored as it: Mistral, SmolLM2, DeepSeek-R1-Distill-Llama.

The file keeps q and k rows in pairs, as llama.cpp turns neighbours; transformers turns halves.
Llama 3.1 and later divide RoPE's frequencies by the file's `rope_freqs.weight`. llama.cpp applies
no sliding window to this architecture, so neither do we.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llamune.arch.described import Config, Described
from llamune.arch.family import Family
from llamune.arch.keys import Keys, common_keys, rope_keys
from llamune.arch.parts import dense_family, plain_block
from llamune.arch.registry import NewKeys, converts, register

ROPE_FACTORS = "rope_freqs.weight"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
# what every Llama 3.1 to 3.3 has; the scaling factor itself shows in the file
LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@register("llama")
def llama(model: Described) -> Family:
    """Read a model of the Llama architecture."""
    keys = Keys(model)
    sizes = keys.sizes()
    keys.full_rotary(sizes.head_dim)
    keys.refuse_keys("attention.scale", "attention.temperature_scale", "logit_scale")
    attention_bias = keys.has_tensor("blk.0.attn_output.bias")
    mlp_bias = keys.has_tensor("blk.0.ffn_down.bias")
    biases = (*(ATTENTION if attention_bias else ()), *(FEED_FORWARD if mlp_bias else ()))
    rope = keys.rope_parameters()
    has_factors = keys.has_tensor(ROPE_FACTORS)
    if has_factors:
        rope = llama3_parameters(model.floats(ROPE_FACTORS), rope, sizes.head_dim)
    return dense_family(
        keys,
        sizes,
        model_type="llama",
        config_class="LlamaConfig",
        model_class="LlamaForCausalLM",
        config={
            "hidden_act": "silu",
            "rope_parameters": rope,
            "attention_bias": attention_bias,
            "mlp_bias": mlp_bias,
        },
        block=plain_block(sizes, pairs=True, biases=biases),
        rope_factors=ROPE_FACTORS if has_factors else None,
    )


@converts("LlamaForCausalLM", "MistralForCausalLM")
def llama_keys(config: Config) -> NewKeys:
    """Return the keys of a Llama or Mistral config."""
    config.refuse_unless("hidden_act", "silu")
    window = config.get("sliding_window")
    if window is not None and window < config.integer("max_position_embeddings"):
        raise config.refuse(f"sliding_window = {window}")
    keys = common_keys(config, head_dim=False)
    rope = config.rope()
    tables = {}
    if rope.get("rope_type") == "llama3":
        tables[ROPE_FACTORS] = llama3_factors(rope, keys["rope.dimension_count"])
        rope = {"rope_theta": rope["rope_theta"]}
    return NewKeys(architecture="llama", keys={**keys, **rope_keys(rope, config)}, tables=tables)


def llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """Return what Llama 3's scaling divides each frequency by, (head_dim / 2,) f32.

    Source: transformers' `_compute_llama3_parameters`; llama.cpp's converter writes the same.
    """
    base, factor = rope["rope_theta"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    frequencies = base ** -(np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    turns = original * frequencies / (2 * math.pi)  # in the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth), dtype=np.float32)


def llama3_parameters(factors: np.ndarray, plain: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """Return the `llama3` RoPE parameters that make these factors; `plain` where none do.

    The model is exact either way, since its frequencies are divided by the file's own factors;
    only a config written for transformers needs the parameters.
    """
    found = {**plain, **LLAMA3, "rope_type": "llama3", "factor": round(float(factors.max()), 4)}
    agrees = np.allclose(llama3_factors(found, head_dim), factors.reshape(-1), rtol=1e-5)
    return found if agrees else plain
