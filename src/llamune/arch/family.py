"""What a model family is, as data: sizes, the transformers config, and one rule per tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from llamune.errors import LlamuneError

__all__ = ["Family", "OffsetNorm", "PermuteRows", "Role", "Sizes", "TensorRule", "Transform"]

GROUPS = {"attention": "self_attn", "mlp": "mlp"}  # what `targets` may say, and where they lie
LAYERS = "model.layers"
FLOPS_PER_PARAMETER = {"forward": 2, "lora": 4, "lora+checkpointing": 6, "full": 6}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a model; each is a count."""

    n_layer: int
    d_model: int
    n_head: int
    n_head_kv: int
    head_dim: int
    d_ff: int
    n_vocab: int
    context_length: int  # tokens the model was trained for
    sliding_window: int | None = None  # tokens, where some layers look back only that far


class Role(StrEnum):
    """What a tensor does in its module."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    NORM = "norm"
    BIAS = "bias"


@dataclass(frozen=True)
class PermuteRows:
    """The file keeps each head's rows as pairs (i, i + d/2) side by side; transformers as halves.

    Source: llama.cpp's `LlamaModel.permute`, which writes `(h, 2, d/2)` rows as `(h, d/2, 2)`.
    """

    n_head: int

    def torch_rows(self, n_rows: int) -> np.ndarray:
        """Return for each transformers row the file row that holds it, (n_rows,)."""
        pairs = np.arange(n_rows).reshape(self.n_head, -1, 2)
        return pairs.swapaxes(1, 2).reshape(-1)

    def file_rows(self, n_rows: int) -> np.ndarray:
        """Return for each file row the transformers row that it holds, (n_rows,)."""
        halves = np.arange(n_rows).reshape(self.n_head, 2, -1)
        return halves.swapaxes(1, 2).reshape(-1)


@dataclass(frozen=True)
class OffsetNorm:
    """The file keeps a norm's weight plus `offset`; transformers adds it while computing."""

    offset: float = 1.0


Transform = PermuteRows | OffsetNorm


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """How one transformers parameter lies in the file.

    `shape` is torch's, rows first. The same GGUF tensor may serve two modules (tied output).
    """

    module: str
    parameter: str
    gguf: str
    shape: tuple[int, ...]
    role: Role
    transform: Transform | None = None

    @property
    def name(self) -> str:
        """The transformers parameter name."""
        return f"{self.module}.{self.parameter}"

    @property
    def n_elements(self) -> int:
        """How many weights there are."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model file's architecture: what transformers needs to build it, and where each tensor is.

    `config` holds the keyword arguments of the transformers config class; `rope_factors` names
    the file's tensor that divides RoPE's frequencies; `extra` names tensors beside the text model
    (vision, audio, draft), which stay packed and are carried through.
    """

    name: str
    sizes: Sizes
    model_type: str  # as in `config.json`
    config_class: str
    model_class: str
    config: Mapping[str, Any]
    rules: Mapping[str, TensorRule]
    tied: bool
    bf16_only: bool = False  # activations overflow f16
    rope_factors: str | None = None
    extra: Sequence[str] = field(default=())

    @property
    def multiplying_parameters(self) -> int:
        """Weights that multiply activations: linear layers, the output matrix even if tied."""
        linear = sum(rule.n_elements for rule in self.rules.values() if rule.role is Role.LINEAR)
        return linear + (self.sizes.n_vocab * self.sizes.d_model if self.tied else 0)

    def flops_per_token(self, length: int, *, training: str = "forward") -> float:
        """Return the floating-point operations a token costs in a sequence of `length` tokens.

        Args:
            length: tokens of the sequence; attention is causal, so each sees half of them.
            training: `forward`, `lora`, `lora+checkpointing` or `full`.

        Source: two operations a multiplying parameter; backward costs two more for the inputs'
            gradients and two for the weights'.
        """
        per_parameter = FLOPS_PER_PARAMETER[training]
        d_attention = self.sizes.n_head * self.sizes.head_dim
        attention_forward = 2 * self.sizes.n_layer * d_attention * length
        passes = {"forward": 1, "lora": 3, "lora+checkpointing": 4, "full": 3}[training]
        return per_parameter * self.multiplying_parameters + passes * attention_forward

    def linear_modules(self, targets: str | Collection[str] = "all") -> dict[str, TensorRule]:
        """Return the linear layers of the blocks that `targets` names, by module path.

        Args:
            targets: `all`, `attention`, `mlp`, or last parts of module names (`q_proj`, …).

        Raises:
            LlamuneError: a name fits no linear layer.
        """
        linear = {
            rule.module: rule
            for rule in self.rules.values()
            if rule.role is Role.LINEAR and rule.module.startswith(f"{LAYERS}.")
        }
        if targets == "all":
            return linear
        if isinstance(targets, str) and targets in GROUPS:
            return {path: rule for path, rule in linear.items() if f".{GROUPS[targets]}." in path}
        wanted = {targets} if isinstance(targets, str) else set(targets)
        known = {path.rpartition(".")[2] for path in linear}
        if unknown := sorted(wanted - known):
            raise LlamuneError(
                f"{self.name}: no linear layer is named {', '.join(unknown)}",
                hint=f"all, {', '.join(GROUPS)}, or some of: {', '.join(sorted(known))}",
            )
        return {path: rule for path, rule in linear.items() if path.rpartition(".")[2] in wanted}
