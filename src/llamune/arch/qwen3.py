"""Qwen 3, dense.

Unlike Llama: q and k are RMS-normed per head before RoPE, heads may be wider than
d_model / n_head, and q/k rows keep transformers' order.
Source: Qwen3 technical report, arXiv:2505.09388.
"""

from __future__ import annotations

from llamune.arch.described import Config, Described
from llamune.arch.family import Family
from llamune.arch.keys import Keys, common_keys, rope_keys
from llamune.arch.parts import dense_family, plain_block
from llamune.arch.registry import NewKeys, converts, register


@register("qwen3")
def qwen3(model: Described) -> Family:
    """Read a Qwen 3 model."""
    keys = Keys(model)
    sizes = keys.sizes()
    keys.full_rotary(sizes.head_dim)
    return dense_family(
        keys,
        sizes,
        model_type="qwen3",
        config_class="Qwen3Config",
        model_class="Qwen3ForCausalLM",
        config={
            "hidden_act": "silu",
            "rope_parameters": keys.rope_parameters(),
            "attention_bias": False,
            "use_sliding_window": False,
        },
        block=plain_block(sizes, qk_norm=True),
    )


@converts("Qwen3ForCausalLM")
def qwen3_keys(config: Config) -> NewKeys:
    """Return the keys of a Qwen 3 config."""
    config.refuse_unless("hidden_act", "silu")
    config.refuse_unless("attention_bias", False)
    config.refuse_unless("use_sliding_window", False)
    keys = common_keys(config, head_dim=True)
    return NewKeys(architecture="qwen3", keys={**keys, **rope_keys(config.rope(), config)})
