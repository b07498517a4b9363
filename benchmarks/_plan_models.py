"""The models that plans are held against: the starter, and random ones of other families."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamune.store import starter

__all__ = ["FAMILIES", "Sizes", "models", "random_model"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A random model between the tiny ones of the tests and a real one."""

    family: str
    kinds: tuple[str, ...]  # quant types of every matrix, a file each
    n_vocab: int
    changes: dict[str, Any]  # of the tests' configuration


FAMILIES = {
    "qwen3-mid": Sizes(
        family="qwen3",
        kinds=("Q4_K", "Q8_0"),
        n_vocab=32_768,
        changes={
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 6,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
        },
    ),
    "gemma2-mid": Sizes(
        family="gemma2",
        kinds=("Q6_K",),
        n_vocab=65_536,
        changes={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "sliding_window": 256,
        },
    ),
    "phi3-mid": Sizes(
        family="phi3",
        kinds=("Q5_0",),
        n_vocab=32_064,
        changes={
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 6,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
    ),
}
CONTEXT = 16_384
TINY = (("llama", "Q8_0"), ("gemma3", "Q4_K"))


def models(*, quick: bool) -> dict[str, Path]:
    """Return the models by name; random ones are made once and kept."""
    from tests.tiny import tiny_model

    found = {"starter Q4_1": starter.fetch()}
    if quick:
        return found
    folder = starter.cache_folder() / "plan"
    folder.mkdir(parents=True, exist_ok=True)
    for family, kind in TINY:
        found[f"{family}-tiny {kind}"] = tiny_model(folder, family, kind)
    for name, sizes in FAMILIES.items():
        for kind in sizes.kinds:
            found[f"{name} {kind}"] = random_model(folder, name, kind)
    return found


def random_model(folder: Path, name: str, kind: str) -> Path:
    """Return a GGUF file of a random model of `FAMILIES`, its matrices of one type."""
    import torch
    import transformers
    from tests.tiny import COMMON
    from tests.tiny import FAMILIES as TINY_FAMILIES

    from llamune.convert import from_transformers

    sizes = FAMILIES[name]
    out = folder / f"{name}-{kind}.gguf"
    if out.exists():
        return out
    config_class, model_class, differences = TINY_FAMILIES[sizes.family]
    settings = {
        **COMMON,
        **differences,
        **sizes.changes,
        "vocab_size": sizes.n_vocab,
        "max_position_embeddings": CONTEXT,
    }
    config = getattr(transformers, config_class)(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config)
    source = folder / name.replace("phi3", "p3")
    model.save_pretrained(source)
    write_tokenizer(source, n_vocab=sizes.n_vocab)
    from_transformers(source, out, kind, pure=True)
    return out


def write_tokenizer(folder: Path, *, n_vocab: int) -> None:
    """Write the tests' tokenizer, filled up to a size with tokens that no text gives."""
    from tests.tiny import write_tokenizer as write_tiny

    write_tiny(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    for number in range(len(vocabulary), n_vocab):
        vocabulary[f"unused{number}"] = number
    path.write_text(json.dumps(content))
