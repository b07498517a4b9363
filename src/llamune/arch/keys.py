"""What the family files read sizes and settings with: a file's keys, or a transformers config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamune.arch.described import Config, Described
from llamune.arch.family import Sizes
from llamune.errors import UnsupportedError

__all__ = [
    "OUTPUT",
    "TOKEN_EMBEDDING",
    "Keys",
    "common_config",
    "common_keys",
    "rope_keys",
]

TOKEN_EMBEDDING = "token_embd.weight"  # noqa: S105  a tensor's name
OUTPUT = "output.weight"


class Keys:
    """The keys of one file under its architecture's prefix."""

    def __init__(self, model: Described) -> None:
        self.model = model
        self.architecture = model.architecture

    def has_tensor(self, name: str) -> bool:
        """Whether the file has a tensor of that name."""
        return name in self.model.tensors

    @property
    def tied(self) -> bool:
        """Whether the token embedding is the output matrix too."""
        return not self.has_tensor(OUTPUT)

    def has(self, key: str) -> bool:
        """Whether the file has `<architecture>.<key>`."""
        return f"{self.architecture}.{key}" in self.model.metadata

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an integer; MissingKey when it is absent and has no default."""
        name = f"{self.architecture}.{key}"
        if default is None:
            return self.model.metadata.integer(name)
        return self.model.metadata.integer(name, default=default)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number; MissingKey when it is absent and has no default."""
        name = f"{self.architecture}.{key}"
        if default is None:
            return self.model.metadata.number(name)
        return self.model.metadata.number(name, default=default)

    def refuse(self, what: str) -> UnsupportedError:
        """Return the error that says what of this file is not implemented."""
        return UnsupportedError(
            f"{self.model.path}: {self.architecture}: {what} is not implemented",
            hint="llamune trains only what it computes exactly as llama.cpp does",
        )

    def refuse_keys(self, *keys: str) -> None:
        """Raise when a key that would change the computation is there and not zero."""
        for key in keys:
            if self.has(key) and self.model.metadata[f"{self.architecture}.{key}"]:
                raise self.refuse(f"{self.architecture}.{key}")

    def refuse_arrays(self, *keys: str) -> None:
        """Raise when a size differs from layer to layer."""
        for key in keys:
            name = f"{self.architecture}.{key}"
            if name in self.model.metadata and not isinstance(
                self.model.metadata[name], int | float
            ):
                raise self.refuse(f"{name} that differs from layer to layer")

    def sizes(self, *, sliding_window: int | None = None) -> Sizes:
        """Read the sizes that every dense decoder has.

        Raises:
            MissingKey: a key is absent.
            UnsupportedError: experts, or sizes that differ from layer to layer or do not divide.
        """
        self.refuse_arrays("attention.head_count", "attention.head_count_kv", "feed_forward_length")
        self.refuse_keys("expert_count", "nextn_predict_layers", "attention.shared_kv_layers")
        d_model = self.integer("embedding_length")
        n_head = self.integer("attention.head_count")
        n_head_kv = self.integer("attention.head_count_kv", n_head)
        if n_head < 1 or n_head_kv < 1 or n_head % n_head_kv:
            raise self.refuse(f"{n_head} heads over {n_head_kv} key/value heads")
        if not self.has("attention.key_length") and d_model % n_head:
            raise self.refuse(f"{n_head} heads in an embedding of {d_model}")
        head_dim = self.integer("attention.key_length", d_model // n_head)
        if self.integer("attention.value_length", head_dim) != head_dim:
            raise self.refuse("a value length other than the key length")
        if TOKEN_EMBEDDING not in self.model.tensors:
            raise self.refuse(f"a file without {TOKEN_EMBEDDING}")
        return Sizes(
            n_layer=self.integer("block_count"),
            d_model=d_model,
            n_head=n_head,
            n_head_kv=n_head_kv,
            head_dim=head_dim,
            d_ff=self.integer("feed_forward_length"),
            n_vocab=self.model.tensors[TOKEN_EMBEDDING].shape[0],
            context_length=self.integer("context_length"),
            sliding_window=sliding_window,
        )

    def full_rotary(self, head_dim: int) -> None:
        """Raise unless RoPE turns whole heads."""
        turned = self.integer("rope.dimension_count", head_dim)
        if turned != head_dim:
            raise self.refuse(f"RoPE over {turned} of {head_dim} dimensions")

    def rope_parameters(self, default_base: float = 10000.0) -> dict[str, Any]:
        """Return transformers' RoPE parameters for plain or linearly scaled RoPE.

        Raises:
            UnsupportedError: another scaling.
        """
        base = self.number("rope.freq_base", default_base)
        kind = self.model.metadata.text(f"{self.architecture}.rope.scaling.type", default="none")
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))
        if kind == "none" and not self.has("rope.scale_linear"):
            return {"rope_type": "default", "rope_theta": base}
        if kind in {"none", "linear"}:
            if factor in {0.0, 1.0}:
                return {"rope_type": "default", "rope_theta": base}
            return {"rope_type": "linear", "rope_theta": base, "factor": factor}
        raise self.refuse(f"RoPE scaling {kind!r}")

    def refuse_scaling(self) -> None:
        """Raise unless RoPE is plain."""
        if self.rope_parameters()["rope_type"] != "default":
            raise self.refuse("scaled RoPE")


def common_config(keys: Keys, sizes: Sizes) -> dict[str, Any]:
    """Return the transformers config entries that every family names alike."""
    return {
        "vocab_size": sizes.n_vocab,
        "hidden_size": sizes.d_model,
        "intermediate_size": sizes.d_ff,
        "num_hidden_layers": sizes.n_layer,
        "num_attention_heads": sizes.n_head,
        "num_key_value_heads": sizes.n_head_kv,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": sizes.context_length,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": keys.tied,
        **special_tokens(keys.model),
    }


def common_keys(config: Config, *, head_dim: bool) -> dict[str, Any]:
    """Return the GGUF keys that every family names alike, from a transformers config.

    Args:
        config: the folder's `config.json`.
        head_dim: whether to write the head's size where it is not d_model / n_head.
    """
    n_head = config.integer("num_attention_heads")
    d_model = config.integer("hidden_size")
    keys: dict[str, Any] = {
        "context_length": config.integer("max_position_embeddings"),
        "embedding_length": d_model,
        "block_count": config.integer("num_hidden_layers"),
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": n_head,
        "attention.head_count_kv": config.integer("num_key_value_heads", n_head),
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps"),
        "vocab_size": config.integer("vocab_size"),
    }
    size = config.integer("head_dim", d_model // n_head)
    if head_dim or size * n_head != d_model:
        keys["attention.key_length"] = keys["attention.value_length"] = size
    keys["rope.dimension_count"] = size
    return keys


def rope_keys(rope: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return the keys of plain or linearly scaled RoPE.

    Raises:
        UnsupportedError: another kind.
    """
    keys: dict[str, Any] = {"rope.freq_base": float(rope.get("rope_theta", 10000.0))}
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    elif kind != "default":
        raise config.refuse(f"rope_type {kind!r}")
    return keys


def special_tokens(model: Described) -> dict[str, int | None]:
    """Return the config's begin, end and padding token ids."""
    names = {
        "bos_token_id": "tokenizer.ggml.bos_token_id",
        "eos_token_id": "tokenizer.ggml.eos_token_id",
        "pad_token_id": "tokenizer.ggml.padding_token_id",
    }
    return {
        name: model.metadata.integer(key) if key in model.metadata else None
        for name, key in names.items()
    }
