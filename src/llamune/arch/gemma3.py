"""Gemma 3, text.

Unlike Gemma 2: q and k are RMS-normed per head, no caps on attention; five of six layers look
back only `sliding_window` tokens, and those turn RoPE with their own base and no scaling.
Store files carry the vision tower beside the text model; it stays as it is.
Source: Gemma 3 report, arXiv:2503.19786.
"""

from __future__ import annotations

from llamune.arch.described import Config, Described
from llamune.arch.family import Family, OffsetNorm
from llamune.arch.gemma2 import GELU, NORMS
from llamune.arch.parts import (
    OUTPUT,
    Keys,
    common_config,
    common_keys,
    extra_tensors,
    model_rules,
    plain_block,
    rope_keys,
)
from llamune.arch.registry import NewKeys, converts, register

PERIOD = 6
LOCAL_BASE = 10000.0
LAYERS_OF_27B = 62  # llama.cpp knows the 27B, which scales queries otherwise, by its layers


@register("gemma3")
def gemma3(model: Described) -> Family:
    """Read a Gemma 3 text model."""
    keys = Keys(model)
    sizes = keys.sizes(sliding_window=keys.integer("attention.sliding_window"))
    keys.full_rotary(sizes.head_dim)
    period = keys.integer("attention.sliding_window_pattern", PERIOD)
    tied = not keys.has_tensor(OUTPUT)
    cap = keys.number("final_logit_softcapping", 0.0)
    return Family(
        name="gemma3",
        sizes=sizes,
        model_type="gemma3_text",
        config_class="Gemma3TextConfig",
        model_class="Gemma3ForCausalLM",
        config={
            **common_config(keys, sizes, tied=tied),
            "hidden_activation": GELU,
            "rope_parameters": {
                "full_attention": keys.rope_parameters(1_000_000.0),
                "sliding_attention": {
                    "rope_type": "default",
                    "rope_theta": keys.number("rope.freq_base_swa", LOCAL_BASE),
                },
            },
            "attention_bias": False,
            "query_pre_attn_scalar": query_scalar(
                sizes.n_layer, sizes.d_model, sizes.n_head, sizes.head_dim
            ),
            "sliding_window": sizes.sliding_window,
            "layer_types": layer_types(sizes.n_layer, period),
            "attn_logit_softcapping": None,
            "final_logit_softcapping": cap or None,
        },
        rules=model_rules(
            sizes,
            plain_block(sizes, norms=NORMS, qk_norm=True, norm_transform=OffsetNorm()),
            tied=tied,
            norm_transform=OffsetNorm(),
        ),
        tied=tied,
        bf16_only=True,
        extra=extra_tensors(model),
    )


@converts("Gemma3ForCausalLM")
def gemma3_keys(config: Config) -> NewKeys:
    """Return the keys of a Gemma 3 text config."""
    config.refuse_unless("hidden_activation", GELU)
    config.refuse_unless("attention_bias", False)
    config.refuse_unless("use_bidirectional_attention", False)
    config.refuse_unless("attn_logit_softcapping")
    config.refuse_unless("final_logit_softcapping")
    keys = common_keys(config, head_dim=True)
    n_layer, head_dim = keys["block_count"], keys["attention.key_length"]
    period = int(config.get("sliding_window_pattern", PERIOD))
    config.refuse_unless("layer_types", layer_types(n_layer, period))
    config.refuse_unless(
        "query_pre_attn_scalar",
        query_scalar(n_layer, keys["embedding_length"], keys["attention.head_count"], head_dim),
    )
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
            "attention.sliding_window": config.integer("sliding_window"),
            **({} if period == PERIOD else {"attention.sliding_window_pattern": period}),
        },
    )


def layer_types(n_layer: int, period: int) -> list[str]:
    """Return transformers' name of each layer's kind: the last of each period sees all."""
    return [
        "sliding_attention" if (index + 1) % period else "full_attention"
        for index in range(n_layer)
    ]


def query_scalar(n_layer: int, d_model: int, n_head: int, head_dim: int) -> int:
    """Return what queries are scaled by the root of.

    Source: llama.cpp's gemma3.cpp, `f_attention_scale`.
    """
    return d_model // n_head if n_layer == LAYERS_OF_27B else head_dim
