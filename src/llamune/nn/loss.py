"""Next-token cross-entropy straight from hidden states: the full logits never exist.

Only positions with a label reach the output matrix, a chunk of them at a time; the packed matrix
is unpacked a slice of the vocabulary at a time. The gradient of the hidden states is made in the
same pass, so that logits are computed once. Source of the idea: Cut Cross-Entropy,
arXiv:2411.09009.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llamune.nn.grown import GrownOutput
from llamune.nn.packed import PackedLinear
from llamune.nn.trained_table import OutputUse, TrainedOutput
from llamune.nn.unpack import unpack

__all__ = ["IGNORED", "fused_loss", "shifted"]

IGNORED = -100
LOGITS_BYTES = 128 << 20  # of one chunk of positions
SLICE_BYTES = 128 << 20  # of one unpacked slice of the output matrix
PIECE_BYTES = 8 << 20  # of logits that are worked on at once: what lies between is as small


def shifted(labels: Tensor) -> Tensor:
    """Return for each position the next token's label; the last has none. (batch, length)."""
    return torch.cat((labels[:, 1:], labels.new_full((labels.shape[0], 1), IGNORED)), dim=1)


def fused_loss(
    hidden: Tensor,
    output: nn.Module,
    labels: Tensor,
    *,
    n_items: Tensor | float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Return the mean cross-entropy over the positions that have a label.

    Args:
        hidden: (positions, d_model), what the output matrix multiplies.
        output: the output layer: packed, `nn.Linear`, or any module (an adapter on it).
        labels: (positions,), the token that follows; `IGNORED` for none.
        n_items: divide the sum by this, default the number of labels here. (A Trainer passes the
            count over all micro-batches of a step.)
        softcap: logits become softcap * tanh(logits / softcap).

    Returns:
        Scalar, f32.
    """
    chosen = (labels != IGNORED).nonzero().squeeze(1)
    divisor = chosen.numel() if n_items is None else n_items
    if chosen.numel() == 0:
        return hidden.sum().to(wide(hidden.dtype)) * 0.0
    rows, targets = hidden.index_select(0, chosen), labels.index_select(0, chosen)
    slices = slices_of(output)
    if slices is None:
        return chunked_loss(rows, output, targets, softcap) / divisor
    # torch's Function has no types
    total: Tensor = FusedLoss.apply(rows, slices.trained, targets, slices, softcap)  # type: ignore[no-untyped-call]
    return total / divisor


def chunked_loss(rows: Tensor, output: nn.Module, targets: Tensor, softcap: float | None) -> Tensor:
    """Return the summed loss through any output module, logits recomputed in backward."""
    from torch.utils.checkpoint import checkpoint

    def loss_of(part: Tensor, wanted: Tensor) -> Tensor:
        logits = capped(output(part).float(), softcap)
        return nn.functional.cross_entropy(logits, wanted, reduction="sum")

    size = max(1, LOGITS_BYTES // (4 * int(output.out_features)))  # type: ignore[arg-type]
    parts = zip(torch.split(rows, size), torch.split(targets, size), strict=True)
    losses = [checkpoint(loss_of, part, wanted, use_reentrant=False) for part, wanted in parts]
    return torch.stack(losses).sum()


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return softcap * tanh(logits / softcap)."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


class Slices(Protocol):
    """An output matrix that is read in slices of its rows.

    Attributes:
        n_vocab: rows in all.
        trained: the rows that may have a gradient, or None; they stand together.
        first_trained: number of the first of them.
    """

    n_vocab: int
    trained: Tensor | None
    first_trained: int

    def __call__(self, dtype: torch.dtype, /) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (start, stop, rows start to stop)."""
        ...


class DenseSlices:
    """The output matrix in floats, as one slice."""

    first_trained = 0

    def __init__(self, weight: Tensor) -> None:
        self.trained: Tensor | None = weight
        self.weight = weight.detach()
        self.n_vocab = weight.shape[0]

    def __call__(self, _: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (start, stop, rows start to stop)."""
        yield 0, self.n_vocab, self.weight


class PackedSlices:
    """The packed output matrix, unpacked slice by slice; a small one is unpacked once.

    Args:
        layer: the matrix.
        n_rows: how many of its rows; default all.
    """

    first_trained = 0

    def __init__(self, layer: PackedLinear, n_rows: int | None = None) -> None:
        self.layer = layer
        self.n_vocab = layer.out_features if n_rows is None else n_rows
        self.trained: Tensor | None = None
        self.kept: Tensor | None = None

    def __call__(self, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (start, stop, rows start to stop)."""
        step = max(1, SLICE_BYTES // (self.layer.in_features * dtype.itemsize))
        for start in range(0, self.n_vocab, step):
            stop = min(start + step, self.n_vocab)
            if self.kept is not None:
                yield start, stop, self.kept
                continue
            rows = unpack(self.layer.packed[start:stop], self.layer.kind, dtype, how=self.layer.how)
            if step >= self.n_vocab:
                self.kept = rows
            yield start, stop, rows


class GrownSlices:
    """The packed output matrix of the old tokens, then the floats of the new ones."""

    def __init__(self, output: GrownOutput) -> None:
        self.old = PackedSlices(output.layer, output.n_old)
        self.n_vocab = output.out_features
        self.trained: Tensor | None = output.rows
        self.first_trained = output.n_old
        self.new = output.rows.detach()

    def __call__(self, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (start, stop, rows start to stop)."""
        yield from self.old(dtype)
        yield self.first_trained, self.n_vocab, self.new.to(dtype)


def slices_of(output: nn.Module) -> Slices | None:
    """Return a plain output layer's matrix in slices; None for a layer that does more."""
    if isinstance(output, GrownOutput):
        return GrownSlices(output)
    if not isinstance(output, nn.Linear) or getattr(output, "bias", None) is not None:
        return None
    # an adapter's layer is no nn.Linear
    return PackedSlices(output) if isinstance(output, PackedLinear) else DenseSlices(output.weight)


class FusedLoss(torch.autograd.Function):
    """The summed loss; its gradients are made in forward and scaled in backward."""

    @staticmethod
    def forward(  # noqa: PLR0917  torch passes them by position
        ctx: Any,
        rows: Tensor,
        weight: Tensor | None,
        targets: Tensor,
        slices: Slices,
        softcap: float | None,
    ) -> Tensor:
        """Return the sum over rows of -log p(target)."""
        to_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        to_weight = (
            torch.zeros_like(weight) if weight is not None and ctx.needs_input_grad[1] else None
        )
        size = max(1, LOGITS_BYTES // (4 * slices.n_vocab))
        total = rows.new_zeros((), dtype=wide(rows.dtype))
        log_totals = rows.new_empty(rows.shape[0], dtype=wide(rows.dtype))
        for start in range(0, rows.shape[0], size):
            part = rows[start : start + size]
            loss, to_logits, log_totals[start : start + size] = loss_and_gradient(
                logits_of(part, slices), targets[start : start + size], softcap
            )
            total += loss
            to_logits = to_logits.to(rows.dtype)  # a new one frees those in f32
            if to_rows is not None:
                to_rows[start : start + size] = times_weight(to_logits, part, slices)
            if to_weight is not None:
                to_weight += to_logits[:, slices.first_trained :].T @ part
            del to_logits  # before the next chunk's logits are made
        ctx.save_for_backward(to_rows, to_weight)
        ctx.learn = None
        output = getattr(slices, "layer", None)
        if isinstance(output, TrainedOutput):
            ctx.learn = partial(tell, output, rows, targets, log_totals, softcap)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients made in forward; an output that is trained learns."""
        to_rows, to_weight = ctx.saved_tensors
        if ctx.learn is not None:
            ctx.learn(gradient)
        scaled = (
            None if kept is None else kept * gradient.to(kept.dtype)
            for kept in (to_rows, to_weight)
        )
        return *scaled, None, None, None


def tell(  # noqa: PLR0917  all but the last are known in forward
    output: TrainedOutput,
    rows: Tensor,
    targets: Tensor,
    log_totals: Tensor,
    softcap: float | None,
    scale: Tensor,
) -> None:
    """Let an output's table know what the loss says of it."""
    output.table.hear(OutputUse(rows.detach(), targets, log_totals, softcap, scale))


def logits_of(part: Tensor, slices: Slices) -> Tensor:
    """Return logits in f32: (positions, d_model) -> (positions, n_vocab)."""
    logits = part.new_empty((part.shape[0], slices.n_vocab), dtype=wide(part.dtype))
    step = max(1, PIECE_BYTES // (part.itemsize * part.shape[0]))  # of the vocabulary
    for start, stop, rows in slices(part.dtype):
        if part.dtype is logits.dtype:
            torch.mm(part, rows.T, out=logits[:, start:stop])
            continue
        for piece, few in zip(
            torch.split(logits[:, start:stop], step, dim=1), torch.split(rows, step), strict=True
        ):
            piece.copy_(part @ few.T)
    return logits


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type for logits: f32, or f64 where everything is."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def loss_and_gradient(
    logits: Tensor, targets: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the summed loss, its gradient, which takes the logits' memory, and log totals."""
    size = max(1, PIECE_BYTES // (logits.itemsize * logits.shape[1]))
    pieces = zip(torch.split(logits, size), torch.split(targets, size), strict=True)
    losses, log_totals = zip(*(turn_to_gradient(*piece, softcap) for piece in pieces), strict=True)
    return torch.stack(losses).sum(), logits, torch.cat(log_totals)


def turn_to_gradient(
    logits: Tensor, targets: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Replace logits by the gradient of their summed loss; return that loss and log totals."""
    slope = None
    if softcap is not None:
        logits.div_(softcap).tanh_()
        slope = 1.0 - logits * logits  # of tanh
        logits.mul_(softcap)
    wanted = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    log_total = torch.logsumexp(logits, dim=1)
    loss = (log_total - wanted).sum()
    logits.sub_(log_total.unsqueeze(1)).exp_()
    logits[torch.arange(len(targets), device=targets.device), targets] -= 1.0
    if slope is not None:
        logits.mul_(slope)
    return loss, log_total


def times_weight(to_logits: Tensor, like: Tensor, slices: Slices) -> Tensor:
    """Return the gradient of the hidden states: (positions, n_vocab) -> (positions, d_model)."""
    out = torch.zeros_like(like)
    for start, stop, rows in slices(like.dtype):
        out += to_logits[:, start:stop] @ rows
    return out
