"""A tiny Llama with random weights, as a transformers model and as a GGUF file of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llamune.arch import Family, PermuteRows, describe
from llamune.gguf import Entry, ModelFile, NewTensor, floats_to_rows, quant_type, write_gguf

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def model(*, tied: bool = False, seed: int = 0) -> Any:
    """Return a transformers Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES, max_position_embeddings=64, tie_word_embeddings=tied)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def gguf_name(parameter: str) -> str:
    """Return the GGUF tensor name of a transformers parameter."""
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if parameter in fixed:
        return fixed[parameter]
    _, _, layer, rest = parameter.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def file_rows(name: str, weight: np.ndarray) -> np.ndarray:
    """Return a weight with its rows in the file's order."""
    heads = {"attn_q": 4, "attn_k": 2}
    for part, n_head in heads.items():
        if f".{part}." in name:
            return weight[PermuteRows(n_head).file_rows(len(weight))]
    return weight


def tokenizer_keys() -> dict[str, Entry]:
    """Return a byte-level vocabulary that llama.cpp loads."""
    tokens = [f"<{number}>" for number in range(SIZES["vocab_size"])]
    return {
        "tokenizer.ggml.model": Entry.of("gpt2"),
        "tokenizer.ggml.pre": Entry.of("default"),
        "tokenizer.ggml.tokens": Entry.of(tokens),
        "tokenizer.ggml.token_type": Entry.of(np.ones(len(tokens), np.int32)),
        "tokenizer.ggml.merges": Entry.of(["a b"]),
        "tokenizer.ggml.bos_token_id": Entry.of(1),
        "tokenizer.ggml.eos_token_id": Entry.of(2),
    }


def write(path: Path, torch_model: Any, *, kind: str = "F32") -> Path:
    """Write the model as GGUF, its matrices in one quant type."""
    config = torch_model.config
    keys = {
        "block_count": config.num_hidden_layers,
        "context_length": 64,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.dimension_count": 16,
        "rope.freq_base": 10000.0,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    metadata = {
        "general.architecture": Entry.of("llama"),
        "general.name": Entry.of("tiny"),
        **{f"llama.{key}": Entry.of(value) for key, value in keys.items()},
        **tokenizer_keys(),
    }
    tensors = []
    for name, weight in torch_model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        gguf = gguf_name(name)
        rows = file_rows(gguf, weight.numpy())
        chosen = quant_type(kind if rows.ndim == 2 else "F32")
        packed = floats_to_rows(np.atleast_2d(rows), chosen)
        tensors.append(
            NewTensor(gguf, rows.shape, chosen, lambda packed=packed: [packed.tobytes()])
        )
    write_gguf(path, metadata=metadata, tensors=tensors)
    return path


def family_of(path: Path) -> Family:
    """Return what `arch` says of a file."""
    with ModelFile.open(path) as file:
        return describe(file)
