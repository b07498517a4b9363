"""Gemma 2.

Unlike Llama: what `gemma.py` says of every Gemma; tanh caps on attention scores and logits; every
other layer looks back only `sliding_window` tokens; the output is tied.
Source: Gemma 2 report, arXiv:2408.00118.
"""

from __future__ import annotations

from llamune.arch.described import Config, Described
from llamune.arch.family import Family
from llamune.arch.gemma import common_gemma_keys, gemma_family, layer_types
from llamune.arch.keys import Keys, rope_keys
from llamune.arch.registry import NewKeys, converts, register

LAYERS_OF_27B = 46
PERIOD = 2  # even layers have the window


@register("gemma2")
def gemma2(model: Described) -> Family:
    """Read a Gemma 2 model."""
    keys = Keys(model)
    sizes = keys.sizes(sliding_window=keys.integer("attention.sliding_window", 4096))
    keys.full_rotary(sizes.head_dim)
    keys.refuse_keys("attention.sliding_window_pattern", "rope.freq_base_swa")
    if not keys.tied:
        raise keys.refuse("an output of its own")
    return gemma_family(
        keys,
        sizes,
        model_type="gemma2",
        config_class="Gemma2Config",
        model_class="Gemma2ForCausalLM",
        layers_of_27b=LAYERS_OF_27B,
        config={
            "rope_parameters": keys.rope_parameters(),
            "layer_types": layer_types(sizes.n_layer, PERIOD),
            "attn_logit_softcapping": keys.number("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": keys.number("final_logit_softcapping", 30.0),
        },
    )


@converts("Gemma2ForCausalLM")
def gemma2_keys(config: Config) -> NewKeys:
    """Return the keys of a Gemma 2 config."""
    config.refuse_unless("tie_word_embeddings", True)
    keys = common_gemma_keys(config, layers_of_27b=LAYERS_OF_27B)
    config.refuse_unless("layer_types", layer_types(keys["block_count"], PERIOD))
    return NewKeys(
        architecture="gemma2",
        keys={
            **keys,
            **rope_keys(config.rope(), config),
            "attn_logit_softcapping": config.number("attn_logit_softcapping"),
            "final_logit_softcapping": config.number("final_logit_softcapping"),
        },
    )
