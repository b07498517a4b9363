"""The choices of a training that memory, time and disk depend on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from llamune.plan.shape import Linear, Shape

__all__ = ["F32_BYTES", "METHODS", "TYPE_BYTES", "Settings", "lora_parameters"]

METHODS = ("lora", "dora", "full")
F32_BYTES = 4
TYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The choices that memory and time depend on.

    Args:
        method: `lora`, `dora`, or `full` (every weight).
        dense: of `full`, whether weights are floats; else they are trained in packed blocks.
        keep_type: of `full`, quant type of the packed weights between steps.
        weight_type: of `full` and dense, the floats' type.
        optimizer: of `full`, `factored`, `adamw8`, or for dense weights what transformers calls it.
        train_embeddings: of `full`, whether token embedding and output are trained as well.
        rank: columns of the thin matrices.
        ranks: rank of single kinds of layer.
        targets: which layers get an adapter.
        micro_batch: sequences that go through the model at once.
        length: tokens of the longest.
        trained_share: share of tokens that the loss counts.
        recompute: whether activations are recomputed in backward.
        dropout: whether the adapter's inputs are dropped at random.
        compute_type: `float32`, `bfloat16` or `float16`.
        compiled: whether decoder layers are compiled.
        new_tokens: tokens whose rows of embedding and output are trained beside an adapter.
    """

    method: str = "lora"
    dense: bool = False
    keep_type: str = "Q8_0"
    weight_type: str = "float32"
    optimizer: str = "factored"
    train_embeddings: bool = False
    rank: int = 16
    ranks: Mapping[str, int] = field(default_factory=dict)
    targets: str | Collection[str] = "all"
    micro_batch: int = 4
    length: int = 512
    trained_share: float = 1.0
    recompute: bool = False
    dropout: bool = False
    compute_type: str = "float32"
    compiled: bool = False
    new_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that go through the model at once."""
        return self.micro_batch * self.length

    @property
    def is_adapter(self) -> bool:
        """Whether thin matrices are trained, not the weights themselves."""
        return self.method in {"lora", "dora"}

    @property
    def is_packed(self) -> bool:
        """Whether every weight is trained in its packed blocks."""
        return self.method == "full" and not self.dense

    @property
    def kind(self) -> str:
        """The method in two words at most."""
        if self.is_adapter:
            return self.method
        return "full dense" if self.dense else "full packed"

    @property
    def passes(self) -> str:
        """The key of `shape.PASSES`."""
        trained = "full+embeddings" if self.train_embeddings else "full"
        return ("lora" if self.is_adapter else trained) + ("+recompute" if self.recompute else "")

    def rank_of(self, linear: Linear) -> int:
        """Return the rank of a kind of layer."""
        return self.ranks.get(linear.name, self.rank)


def lora_parameters(shape: Shape, settings: Settings) -> int:
    """Return how many numbers an adapter trains, the rows of new tokens among them."""
    per_block = sum(
        settings.rank_of(linear) * (linear.rows + linear.columns)
        + (linear.rows if settings.method == "dora" else 0)
        for linear in shape.targeted(settings.targets)
    )
    rows = settings.new_tokens * (1 if shape.tied else 2)
    return shape.n_layer * per_block + rows * shape.d_model
