"""Gemma 3, text.

Unlike Gemma 2: q and k are RMS-normed per head, no caps on attention; five of six layers look
back only `sliding_window` tokens, and those turn RoPE with their own base and no scaling.
Store files carry the vision tower beside the text model; it stays as it is.
Source: Gemma 3 report, arXiv:2503.19786.
"""

from __future__ import annotations

from llamune.arch.described import Config, Described
from llamune.arch.family import Family
from llamune.arch.gemma import common_gemma_keys, gemma_family, layer_types
from llamune.arch.keys import Keys, rope_keys
from llamune.arch.registry import NewKeys, converts, register

LAYERS_OF_27B = 62
PERIOD = 6
LOCAL_BASE = 10000.0


@register("gemma3")
def gemma3(model: Described) -> Family:
    """Read a Gemma 3 text model."""
    keys = Keys(model)
    sizes = keys.sizes(sliding_window=keys.integer("attention.sliding_window"))
    keys.full_rotary(sizes.head_dim)
    period = keys.integer("attention.sliding_window_pattern", PERIOD)
    cap = keys.number("final_logit_softcapping", 0.0)
    return gemma_family(
        keys,
        sizes,
        model_type="gemma3_text",
        config_class="Gemma3TextConfig",
        model_class="Gemma3ForCausalLM",
        layers_of_27b=LAYERS_OF_27B,
        qk_norm=True,
        config={
            "rope_parameters": {
                "full_attention": keys.rope_parameters(1_000_000.0),
                "sliding_attention": {
                    "rope_type": "default",
                    "rope_theta": keys.number("rope.freq_base_swa", LOCAL_BASE),
                },
            },
            "layer_types": layer_types(sizes.n_layer, period),
            "attn_logit_softcapping": None,
            "final_logit_softcapping": cap or None,
        },
    )


@converts("Gemma3ForCausalLM")
def gemma3_keys(config: Config) -> NewKeys:
    """Return the keys of a Gemma 3 text config."""
    config.refuse_unless("attn_logit_softcapping")
    config.refuse_unless("final_logit_softcapping")
    keys = common_gemma_keys(config, layers_of_27b=LAYERS_OF_27B)
    period = int(config.get("sliding_window_pattern", PERIOD))
    config.refuse_unless("layer_types", layer_types(keys["block_count"], period))
    local, full = config.rope("sliding_attention"), config.rope("full_attention")
    if config.get("rope_parameters") is None:  # transformers 4 kept the local base apart
        local = {"rope_theta": config.number("rope_local_base_freq", LOCAL_BASE)}
    if local.get("rope_type", "default") != "default":
        raise config.refuse("scaled RoPE in sliding layers")
    return NewKeys(
        architecture="gemma3",
        keys={
            **keys,
            **rope_keys(full, config),
            "rope.freq_base_swa": float(local["rope_theta"]),
            **({} if period == PERIOD else {"attention.sliding_window_pattern": period}),
        },
    )
