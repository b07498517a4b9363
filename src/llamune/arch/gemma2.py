"""Gemma 2.

Unlike Llama: norms before and after each part, with weights kept plus one in the file; tanh caps
on attention scores and logits; every other layer looks back only `sliding_window` tokens; the
embedding is scaled by sqrt(d_model); the output is tied; GELU in its tanh form.
Source: Gemma 2 report, arXiv:2408.00118.
"""

from __future__ import annotations

from llamune.arch.described import Config, Described
from llamune.arch.family import Family, OffsetNorm
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

NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GELU = "gelu_pytorch_tanh"
LAYERS_OF_27B = 46  # llama.cpp knows the 27B, which scales queries otherwise, by its layers


@register("gemma2")
def gemma2(model: Described) -> Family:
    """Read a Gemma 2 model."""
    keys = Keys(model)
    sizes = keys.sizes(sliding_window=keys.integer("attention.sliding_window", 4096))
    keys.full_rotary(sizes.head_dim)
    keys.refuse_keys("attention.sliding_window_pattern", "rope.freq_base_swa")
    if keys.has_tensor(OUTPUT):
        raise keys.refuse("an output of its own")
    return Family(
        name="gemma2",
        sizes=sizes,
        model_type="gemma2",
        config_class="Gemma2Config",
        model_class="Gemma2ForCausalLM",
        config={
            **common_config(keys, sizes, tied=True),
            "hidden_activation": GELU,
            "rope_parameters": keys.rope_parameters(),
            "attention_bias": False,
            "query_pre_attn_scalar": query_scalar(sizes.n_layer, sizes.d_model, sizes.n_head)
            or sizes.head_dim,
            "sliding_window": sizes.sliding_window,
            "layer_types": layer_types(sizes.n_layer),
            "attn_logit_softcapping": keys.number("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": keys.number("final_logit_softcapping", 30.0),
        },
        rules=model_rules(
            sizes,
            plain_block(sizes, norms=NORMS, norm_transform=OffsetNorm()),
            tied=True,
            norm_transform=OffsetNorm(),
        ),
        tied=True,
        bf16_only=True,
        extra=extra_tensors(model),
    )


@converts("Gemma2ForCausalLM")
def gemma2_keys(config: Config) -> NewKeys:
    """Return the keys of a Gemma 2 config."""
    config.refuse_unless("hidden_activation", GELU)
    config.refuse_unless("attention_bias", False)
    config.refuse_unless("tie_word_embeddings", True)
    config.refuse_unless("use_bidirectional_attention", False)
    keys = common_keys(config, head_dim=True)
    n_layer, n_head = keys["block_count"], keys["attention.head_count"]
    config.refuse_unless("layer_types", layer_types(n_layer))
    scalar = query_scalar(n_layer, keys["embedding_length"], n_head)
    config.refuse_unless("query_pre_attn_scalar", scalar or keys["attention.key_length"])
    return NewKeys(
        architecture="gemma2",
        keys={
            **keys,
            **rope_keys(config.rope(), config),
            "attention.sliding_window": config.integer("sliding_window"),
            "attn_logit_softcapping": config.number("attn_logit_softcapping"),
            "final_logit_softcapping": config.number("final_logit_softcapping"),
        },
    )


def layer_types(n_layer: int) -> list[str]:
    """Return transformers' name of each layer's kind: even layers have the window."""
    return ["full_attention" if index % 2 else "sliding_attention" for index in range(n_layer)]


def query_scalar(n_layer: int, d_model: int, n_head: int) -> int | None:
    """Return what the 27B model scales queries by; None for the others: the head's size.

    Source: llama.cpp's gemma2.cpp, `f_attention_scale`.
    """
    return d_model // n_head if n_layer == LAYERS_OF_27B else None
