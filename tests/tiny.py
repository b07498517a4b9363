"""Tiny models with random weights of every family, written by our own converter.

`tiny_model(tmp_path, "qwen3", "Q4_K")` returns the path of a GGUF file: a few layers, rows that
divide by 256, a byte-level tokenizer of 320 tokens, a ChatML template. Each is made once and
copied to whoever asks for it.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["FAMILIES", "VARIANTS", "tiny_folder", "tiny_model"]

N_VOCAB = 320
COMMON: dict[str, Any] = {
    "vocab_size": N_VOCAB,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.0 + 0.5 * i for i in range(32)],
    "short_factor": [1.0 + 0.05 * i for i in range(32)],
    "original_max_position_embeddings": 256,
}
# family -> config class, model class, what differs from COMMON
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {"rope_theta": 1000000.0}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 128, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {"head_dim": 128, "query_pre_attn_scalar": 128, "sliding_window": 16},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            "head_dim": 128,
            "query_pre_attn_scalar": 128,
            "sliding_window": 16,
            "num_hidden_layers": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {}),
}
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama3-scaling": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {"rope_parameters": LLAMA3_ROPE, "num_key_value_heads": 4},
    ),
    "llama-biased": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 128},
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": None}),
    "phi3-longrope": (
        "Phi3Config",
        "Phi3ForCausalLM",
        {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 256},
    ),
    "phi3-partial": (
        "Phi3Config",
        "Phi3ForCausalLM",
        {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.75}},
    ),
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAMPLE = (
    "the thing that there is another answer in the water and the other one on the hill "
    "and then the men were here and here again to read and to write on paper every morning "
    "while children walked slowly through quiet gardens under yellow summer light "
)


def tiny_model(folder: Path, family: str = "llama", kind: str = "F32", *, seed: int = 0) -> Path:
    """Return a GGUF file of a tiny random model of `family` (a key of FAMILIES or VARIANTS)."""
    made = make_model(family, kind, seed)
    out = folder / made.name
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, out)
    return out


def tiny_folder(folder: Path, family: str = "llama", *, seed: int = 0) -> Path:
    """Return a transformers folder of a tiny random model of `family`."""
    made = make_folder(family, seed)
    out = folder / made.name
    if not out.exists():
        shutil.copytree(made, out)
    return out


@cache
def workshop() -> Path:
    """Return where this process makes its models; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="llamune-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def make_model(family: str, kind: str, seed: int) -> Path:
    """Write a GGUF file of a tiny random model."""
    from llamune.convert import from_transformers

    out = workshop() / f"{family}-{kind}-{seed}.gguf"
    from_transformers(make_folder(family, seed), out, kind, pure=True)
    return out


@cache
def make_folder(family: str, seed: int) -> Path:
    """Write a transformers folder of a tiny random model."""
    import torch
    import transformers

    # the folder's name becomes `general.name`; "phi3" in it makes llama.cpp look for certain tokens
    out = workshop() / f"tiny-{family.replace('phi3', 'p3')}-{seed}"
    config_class, model_class, differences = {**FAMILIES, **VARIANTS}[family]
    config = getattr(transformers, config_class)(**{**COMMON, **differences})
    generator = torch.Generator().manual_seed(seed)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:  # norms and biases
                centre = 1.0 if name.endswith("norm.weight") and "gemma" not in family else 0.0
                parameter.copy_(centre + 0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
    model.save_pretrained(out)
    write_tokenizer(out)
    return out


def write_tokenizer(out: Path) -> None:
    """Write a byte-level BPE tokenizer of exactly N_VOCAB tokens with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE], trainer)
    assert tokenizer.get_vocab_size() == N_VOCAB
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "chat_template": TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
