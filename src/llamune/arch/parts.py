"""What the family files are written with: keys read once, rules for the usual tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llamune.arch.family import LAYERS, Role, Sizes, TensorRule, Transform
from llamune.arch.sections import is_extra
from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile

__all__ = [
    "Keys",
    "bias",
    "extra_tensors",
    "in_blocks",
    "linear",
    "model_rules",
    "norm",
    "special_tokens",
]

TOKEN_EMBEDDING = "token_embd.weight"  # noqa: S105  a tensor's name
OUTPUT = "output.weight"


class Keys:
    """The keys of one file under its architecture's prefix."""

    def __init__(self, model: ModelFile) -> None:
        self.model = model
        self.architecture = model.architecture

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


def special_tokens(model: ModelFile) -> dict[str, int | None]:
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


def extra_tensors(model: ModelFile) -> tuple[str, ...]:
    """Return the tensors beside the text model."""
    return tuple(name for name in model.tensors if is_extra(name))
