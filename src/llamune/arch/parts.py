"""What the family files are written with: rules for the usual tensors, and the usual family."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from llamune.arch.described import Described
from llamune.arch.family import LAYERS, Family, PermuteRows, Role, Sizes, TensorRule, Transform
from llamune.arch.keys import TOKEN_EMBEDDING, Keys, common_config
from llamune.arch.sections import is_extra

__all__ = [
    "PRE_NORMS",
    "bias",
    "dense_family",
    "extra_tensors",
    "in_blocks",
    "linear",
    "model_rules",
    "norm",
    "plain_block",
]

# transformers name of each norm in a block -> its GGUF name
PRE_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def dense_family(
    keys: Keys,
    sizes: Sizes,
    *,
    model_type: str,
    config_class: str,
    model_class: str,
    config: Mapping[str, Any],
    block: Sequence[TensorRule],
    norm_transform: Transform | None = None,
    bf16_only: bool = False,
    rope_factors: str | None = None,
) -> Family:
    """Return a family of the usual build: embedding, equal blocks, last norm, output.

    Args:
        keys: of the file.
        sizes: read from them.
        model_type: as in `config.json`.
        config_class: transformers' class for it.
        model_class: transformers' class of the model.
        config: its entries beyond `common_config`.
        block: the rules of one block.
        norm_transform: how the file keeps the last norm's weight.
        bf16_only: whether activations overflow f16.
        rope_factors: the tensor that divides RoPE's frequencies, None without.
    """
    return Family(
        name=keys.architecture,
        sizes=sizes,
        model_type=model_type,
        config_class=config_class,
        model_class=model_class,
        config={**common_config(keys, sizes), **config},
        rules=model_rules(sizes, block, tied=keys.tied, norm_transform=norm_transform),
        tied=keys.tied,
        bf16_only=bf16_only,
        rope_factors=rope_factors,
        extra=extra_tensors(keys.model),
    )


def linear(
    module: str, gguf: str, shape: tuple[int, int], *, transform: Transform | None = None
) -> TensorRule:
    """Return the rule of a linear layer's weight, (rows out, columns in)."""
    return TensorRule(
        module=module,
        parameter="weight",
        gguf=f"{gguf}.weight",
        shape=shape,
        role=Role.LINEAR,
        transform=transform,
    )


def bias(module: str, gguf: str, size: int, *, transform: Transform | None = None) -> TensorRule:
    """Return the rule of a linear layer's bias."""
    return TensorRule(
        module=module,
        parameter="bias",
        gguf=f"{gguf}.bias",
        shape=(size,),
        role=Role.BIAS,
        transform=transform,
    )


def norm(module: str, gguf: str, size: int, *, transform: Transform | None = None) -> TensorRule:
    """Return the rule of a norm's weight."""
    return TensorRule(
        module=module,
        parameter="weight",
        gguf=f"{gguf}.weight",
        shape=(size,),
        role=Role.NORM,
        transform=transform,
    )


def in_blocks(n_layer: int, block: Sequence[TensorRule]) -> Iterable[TensorRule]:
    """Repeat the rules of one block for every layer."""
    for index in range(n_layer):
        for rule in block:
            yield TensorRule(
                module=f"{LAYERS}.{index}.{rule.module}",
                parameter=rule.parameter,
                gguf=f"blk.{index}.{rule.gguf}",
                shape=rule.shape,
                role=rule.role,
                transform=rule.transform,
            )


def model_rules(
    sizes: Sizes,
    block: Sequence[TensorRule],
    *,
    tied: bool,
    norm_transform: Transform | None = None,
) -> Mapping[str, TensorRule]:
    """Return all rules: token embedding, blocks, last norm, and the output unless it is tied."""
    table = (sizes.n_vocab, sizes.d_model)
    rules = [
        TensorRule(
            module="model.embed_tokens",
            parameter="weight",
            gguf=TOKEN_EMBEDDING,
            shape=table,
            role=Role.EMBEDDING,
        ),
        *in_blocks(sizes.n_layer, block),
        norm("model.norm", "output_norm", sizes.d_model, transform=norm_transform),
    ]
    if not tied:
        rules.append(linear("lm_head", "output", table))
    return {rule.name: rule for rule in rules}


def plain_block(
    sizes: Sizes,
    *,
    pairs: bool = False,
    biases: Collection[str] = (),
    norms: Mapping[str, str] = PRE_NORMS,
    qk_norm: bool = False,
    norm_transform: Transform | None = None,
) -> list[TensorRule]:
    """Return the rules of a block with separate q, k, v and a gated feed-forward part.

    Args:
        sizes: of the model.
        pairs: whether the file keeps q and k rows in pairs.
        biases: names of linear layers (`q_proj`, …) that have one.
        norms: transformers name of each norm over d_model -> its GGUF name.
        qk_norm: whether q and k are normed per head.
        norm_transform: how the file keeps norm weights.
    """
    d_model, d_ff = sizes.d_model, sizes.d_ff
    d_query = sizes.n_head * sizes.head_dim
    d_key = sizes.n_head_kv * sizes.head_dim
    pairs_q = PermuteRows(sizes.n_head) if pairs else None
    pairs_k = PermuteRows(sizes.n_head_kv) if pairs else None
    linears = [
        linear("self_attn.q_proj", "attn_q", (d_query, d_model), transform=pairs_q),
        linear("self_attn.k_proj", "attn_k", (d_key, d_model), transform=pairs_k),
        linear("self_attn.v_proj", "attn_v", (d_key, d_model)),
        linear("self_attn.o_proj", "attn_output", (d_model, d_query)),
        linear("mlp.gate_proj", "ffn_gate", (d_ff, d_model)),
        linear("mlp.up_proj", "ffn_up", (d_ff, d_model)),
        linear("mlp.down_proj", "ffn_down", (d_model, d_ff)),
    ]
    rules = list(linears)
    for rule in linears:
        if rule.module.rpartition(".")[2] in biases:
            name = rule.gguf.removesuffix(".weight")
            rules.append(bias(rule.module, name, rule.shape[0], transform=rule.transform))
    rules += [norm(ours, file, d_model, transform=norm_transform) for ours, file in norms.items()]
    if qk_norm:
        for ours, file in (("q_norm", "attn_q_norm"), ("k_norm", "attn_k_norm")):
            rules.append(norm(f"self_attn.{ours}", file, sizes.head_dim, transform=norm_transform))
    return rules


def extra_tensors(model: Described) -> tuple[str, ...]:
    """Return the tensors beside the text model."""
    return tuple(name for name in model.tensors if is_extra(name))
