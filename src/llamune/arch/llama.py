"""Llama 1 to 3.3, and what is stored as it: Mistral, SmolLM2, DeepSeek-R1-Distill-Llama.

The file keeps q and k rows in pairs, as llama.cpp turns neighbours; transformers turns halves.
Llama 3.1 and later divide RoPE's frequencies by the file's `rope_freqs.weight`. llama.cpp applies
no sliding window to this architecture, so neither do we.
"""

from __future__ import annotations

from llamune.arch.family import Family, PermuteRows, Sizes, TensorRule
from llamune.arch.parts import (
    OUTPUT,
    Keys,
    bias,
    extra_tensors,
    linear,
    model_rules,
    norm,
    special_tokens,
)
from llamune.arch.registry import register
from llamune.gguf import ModelFile

ROPE_FACTORS = "rope_freqs.weight"


@register("llama")
def llama(model: ModelFile) -> Family:
    """Read a model of the Llama architecture."""
    keys = Keys(model)
    sizes = keys.sizes()
    keys.full_rotary(sizes.head_dim)
    keys.refuse_keys("attention.clamp_kqv", "attention.temperature_scale", "logit_scale")
    tied = OUTPUT not in model.tensors
    attention_bias = "blk.0.attn_output.bias" in model.tensors
    mlp_bias = "blk.0.ffn_down.bias" in model.tensors
    return Family(
        name="llama",
        sizes=sizes,
        config_class="LlamaConfig",
        model_class="LlamaForCausalLM",
        config={
            "vocab_size": sizes.n_vocab,
            "hidden_size": sizes.d_model,
            "intermediate_size": sizes.d_ff,
            "num_hidden_layers": sizes.n_layer,
            "num_attention_heads": sizes.n_head,
            "num_key_value_heads": sizes.n_head_kv,
            "head_dim": sizes.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": sizes.context_length,
            "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
            "rope_parameters": keys.rope_parameters(),
            "attention_bias": attention_bias,
            "mlp_bias": mlp_bias,
            "tie_word_embeddings": tied,
            **special_tokens(model),
        },
        rules=model_rules(
            sizes, block(sizes, attention_bias=attention_bias, mlp_bias=mlp_bias), tied=tied
        ),
        tied=tied,
        rope_factors=ROPE_FACTORS if ROPE_FACTORS in model.tensors else None,
        extra=extra_tensors(model),
    )


def block(sizes: Sizes, *, attention_bias: bool, mlp_bias: bool) -> list[TensorRule]:
    """Return the rules of one block."""
    d_model, d_ff = sizes.d_model, sizes.d_ff
    d_query = sizes.n_head * sizes.head_dim
    d_key = sizes.n_head_kv * sizes.head_dim
    pairs_q, pairs_k = PermuteRows(sizes.n_head), PermuteRows(sizes.n_head_kv)
    rules = [
        norm("input_layernorm", "attn_norm", d_model),
        linear("self_attn.q_proj", "attn_q", (d_query, d_model), transform=pairs_q),
        linear("self_attn.k_proj", "attn_k", (d_key, d_model), transform=pairs_k),
        linear("self_attn.v_proj", "attn_v", (d_key, d_model)),
        linear("self_attn.o_proj", "attn_output", (d_model, d_query)),
        norm("post_attention_layernorm", "ffn_norm", d_model),
        linear("mlp.gate_proj", "ffn_gate", (d_ff, d_model)),
        linear("mlp.up_proj", "ffn_up", (d_ff, d_model)),
        linear("mlp.down_proj", "ffn_down", (d_model, d_ff)),
    ]
    if attention_bias:
        rules += [
            bias("self_attn.q_proj", "attn_q", d_query, transform=pairs_q),
            bias("self_attn.k_proj", "attn_k", d_key, transform=pairs_k),
            bias("self_attn.v_proj", "attn_v", d_key),
            bias("self_attn.o_proj", "attn_output", d_model),
        ]
    if mlp_bias:
        rules += [
            bias("mlp.gate_proj", "ffn_gate", d_ff),
            bias("mlp.up_proj", "ffn_up", d_ff),
            bias("mlp.down_proj", "ffn_down", d_model),
        ]
    return rules
