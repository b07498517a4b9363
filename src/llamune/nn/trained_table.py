"""The vocabulary's matrix, trained some rows at a time: its whole gradient would be gigabytes.

What embedding and output (one matrix in many models) have to say of the gradient is kept in the
small form it comes in, tokens with their vectors, until both have spoken; then each slice of rows
has its gradient made from that, learns, and is forgotten before the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llamune.nn.packed import PackedEmbedding, PackedLinear
from llamune.nn.unpack import How, unpack

__all__ = ["TrainedEmbedding", "TrainedOutput", "TrainedTable", "train_tables"]

SLICE_ELEMENTS = 1 << 24  # 64 MB as floats


class Use(Protocol):
    """One place of the model that the matrix was used in."""

    def touches(self, start: int, stop: int) -> bool:
        """Whether rows from `start` to `stop` have a gradient from here."""
        ...

    def add_to(self, gradient: Tensor, start: int, stop: int, table: TrainedTable) -> None:
        """Add these rows' gradient, (stop - start, columns)."""
        ...


@dataclass(frozen=True, eq=False)
class InputUse:
    """The matrix as token embedding.

    Args:
        ids: (tokens,).
        gradient: of the vectors looked up, (tokens, columns).
    """

    ids: Tensor
    gradient: Tensor

    def touches(self, start: int, stop: int) -> bool:
        """Whether any token is among the rows."""
        return bool(((self.ids >= start) & (self.ids < stop)).any())

    def add_to(self, gradient: Tensor, start: int, stop: int, table: TrainedTable) -> None:
        """Add each token's gradient to its row."""
        del table
        inside = (self.ids >= start) & (self.ids < stop)
        gradient.index_add_(0, self.ids[inside] - start, self.gradient[inside].float())


@dataclass(frozen=True, eq=False)
class OutputUse:
    """The matrix as output, at the positions that the loss counts.

    Args:
        rows: hidden states, (positions, columns).
        targets: the token that follows, (positions,).
        log_totals: logarithm of the sum over the vocabulary, (positions,).
        softcap: logits become softcap * tanh(logits / softcap).
        scale: what the summed loss is multiplied by.
    """

    rows: Tensor
    targets: Tensor
    log_totals: Tensor
    softcap: float | None
    scale: Tensor

    def touches(self, start: int, stop: int) -> bool:  # noqa: ARG002  every row has a probability
        """Return True."""
        return True

    def add_to(self, gradient: Tensor, start: int, stop: int, table: TrainedTable) -> None:
        """Add (probabilities - targets)ᵀ hidden states, the probabilities worked out anew."""
        logits = (self.rows @ table.weight(start, stop, self.rows.dtype).T).float()
        slope = None
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_()
            slope = 1.0 - logits * logits
            logits.mul_(self.softcap)
        to_logits = logits.sub_(self.log_totals.unsqueeze(1)).exp_()
        inside = ((self.targets >= start) & (self.targets < stop)).nonzero().squeeze(1)
        to_logits[inside, self.targets[inside] - start] -= 1.0
        if slope is not None:
            to_logits.mul_(slope)
        to_logits.mul_(self.scale)
        gradient.addmm_(to_logits.T, self.rows.float())


def not_learning(number: int, gradient: Tensor) -> None:
    """Refuse: the trainer has not said what is done with gradients."""
    raise RuntimeError(f"slice {number} got a gradient of {tuple(gradient.shape)} and no trainer")


@dataclass(eq=False)
class TrainedTable:
    """A packed matrix of the vocabulary that is trained.

    Args:
        packed: uint8, (rows, row_bytes), written.
        kind: quant type.
        n_columns: of the matrix.
        how: the way that `unpack` takes.
        n_uses: places of the model that use it, 2 when tied.
        learn: called with the number of a slice and its gradient, f32 (rows, columns).
    """

    packed: Tensor
    kind: str
    n_columns: int
    how: How
    n_uses: int = 0
    learn: Callable[[int, Tensor], None] = not_learning
    waiting: list[Use] = field(default_factory=list)

    def slices(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of the rows that learn at once."""
        size = max(1, SLICE_ELEMENTS // self.n_columns)
        for start in range(0, len(self.packed), size):
            yield start, min(start + size, len(self.packed))

    def weight(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return rows as floats."""
        how = self.how if dtype is torch.float32 or self.how != "ggml" else "torch"
        return unpack(self.packed[start:stop], self.kind, dtype, how=how)

    def hear(self, use: Use) -> None:
        """Take note of a use's gradient; the last one makes the matrix learn."""
        self.waiting.append(use)
        if len(self.waiting) < self.n_uses:
            return
        uses, self.waiting = self.waiting, []
        for number, (start, stop) in enumerate(self.slices()):
            if not any(one.touches(start, stop) for one in uses):
                continue
            gradient = torch.zeros(stop - start, self.n_columns, device=self.packed.device)
            for one in uses:
                one.add_to(gradient, start, stop, self)
            self.learn(number, gradient)


class LookUpInBackward(torch.autograd.Function):
    """The rows of token ids; backward gives their gradient to the table."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, anchor: Tensor, layer: TrainedEmbedding) -> Tensor:  # noqa: ARG004
        """Return (…, columns) from (…)."""
        ctx.layer = layer
        ctx.save_for_backward(ids)
        return PackedEmbedding.forward(layer, ids)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        """Let the table hear."""
        (ids,) = ctx.saved_tensors
        scale = 1.0 if ctx.layer.scale is None else ctx.layer.scale
        ctx.layer.table.hear(InputUse(ids.flatten(), gradient.flatten(0, -2) * scale))
        return None, None, None


class TrainedEmbedding(PackedEmbedding):
    """A packed token embedding that is trained.

    Args:
        layer: what it takes the place of.
        table: its matrix.
    """

    def __init__(self, layer: PackedEmbedding, table: TrainedTable) -> None:
        super().__init__(
            table.packed,
            table.kind,
            layer.embedding_dim,
            dtype=layer.dtype,
            padding_idx=layer.padding_idx,
            scale=layer.scale,
        )
        self.table = table
        table.n_uses += 1
        self.anchor = torch.zeros((), requires_grad=True, device=table.packed.device)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.Embedding's name
        """Return the rows of the token ids: (…) -> (…, columns)."""
        # torch's Function has no types
        return LookUpInBackward.apply(input, self.anchor, self)  # type: ignore[no-untyped-call,no-any-return]


class TrainedOutput(PackedLinear):
    """A packed output layer that is trained; the fused loss tells its table.

    Args:
        layer: what it takes the place of.
        table: its matrix.
    """

    def __init__(self, layer: PackedLinear, table: TrainedTable) -> None:
        super().__init__(
            table.packed, table.kind, layer.in_features, dtype=layer.dtype, how=layer.how
        )
        self.table = table
        table.n_uses += 1


def train_tables(model: nn.Module, *, tied: bool) -> dict[str, TrainedTable]:
    """Make token embedding and output of a model trainable, in place.

    Args:
        model: from `load`.
        tied: whether both are one matrix.

    Returns:
        name of the tensor in the file -> its table.
    """
    unwrapped: Any = model
    embedding, output = unwrapped.get_input_embeddings(), unwrapped.get_output_embeddings()
    looked_up = new_table(embedding, embedding.embedding_dim, how=output.how)
    tables = {"token_embd.weight": looked_up}
    unwrapped.set_input_embeddings(TrainedEmbedding(embedding, looked_up))
    if not tied:
        tables["output.weight"] = new_table(output, output.in_features, how=output.how)
    unwrapped.lm_head = TrainedOutput(output, tables.get("output.weight", looked_up))
    return tables


def new_table(layer: PackedEmbedding | PackedLinear, n_columns: int, *, how: How) -> TrainedTable:
    """Return a table over a copy of a layer's bytes."""
    packed = layer.packed.clone(memory_format=torch.contiguous_format)
    return TrainedTable(packed, layer.kind, n_columns, how)
