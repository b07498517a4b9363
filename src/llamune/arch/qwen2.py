"""Qwen 2 and 2.5, dense, and what is stored as them: DeepSeek-R1-Distill-Qwen.

Unlike Llama: q, k and v have biases, and q/k rows keep transformers' order.
"""

from __future__ import annotations

from llamune.arch.described import Config, Described
from llamune.arch.family import Family
from llamune.arch.keys import Keys, common_keys, rope_keys
from llamune.arch.parts import dense_family, plain_block
from llamune.arch.registry import NewKeys, converts, register


@register("qwen2")
def qwen2(model: Described) -> Family:
    """Read a Qwen 2 model."""
    keys = Keys(model)
    sizes = keys.sizes()
    keys.full_rotary(sizes.head_dim)
    return dense_family(
        keys,
        sizes,
        model_type="qwen2",
        config_class="Qwen2Config",
        model_class="Qwen2ForCausalLM",
        config={
            "hidden_act": "silu",
            "rope_parameters": keys.rope_parameters(),
            "use_sliding_window": False,
        },
        block=plain_block(sizes, biases=("q_proj", "k_proj", "v_proj")),
    )


@converts("Qwen2ForCausalLM")
def qwen2_keys(config: Config) -> NewKeys:
    """Return the keys of a Qwen 2 config."""
    config.refuse_unless("hidden_act", "silu")
    config.refuse_unless("use_sliding_window", False)
    keys = common_keys(config, head_dim=False)
    return NewKeys(architecture="qwen2", keys={**keys, **rope_keys(config.rope(), config)})
