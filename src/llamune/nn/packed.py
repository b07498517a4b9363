"""Linear and embedding layers whose weight stays in the file's quant blocks.

They subclass `nn.Linear` and `nn.Embedding`, since PEFT chooses by that; `weight` is a property
that unpacks. The matrix product is one opaque operator, so that a compiled decoder layer cannot
decide to keep the floats: forward unpacks, backward unpacks again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from llamune.nn.lazy_weight import LazyWeight
from llamune.nn.unpack import How, unpack, unpacked_shape

__all__ = ["PackedEmbedding", "PackedLinear", "from_pairs", "to_pairs"]


def from_pairs(values: Tensor, n_head: int, *, dim: int = -1) -> Tensor:
    """Reorder one dimension from the file's pairs to halves, per head (0 heads: leave it)."""
    if n_head == 0:
        return values
    dim %= values.ndim
    pairs = torch.unflatten(values, dim, (n_head, -1, 2))
    return pairs.transpose(dim + 1, dim + 2).flatten(dim, dim + 2)


def to_pairs(values: Tensor, n_head: int, *, dim: int = -1) -> Tensor:
    """Undo `from_pairs`."""
    if n_head == 0:
        return values
    dim %= values.ndim
    halves = torch.unflatten(values, dim, (n_head, 2, -1))
    return halves.transpose(dim + 1, dim + 2).flatten(dim, dim + 2)


class Scratch(threading.local):
    """One piece of memory for each type, in which weights are unpacked to be used at once.

    A fresh piece for each layer would lie between activations that are kept, and leave the heap
    full of holes: a third of the peak on the CPU. GPUs have allocators that know better.
    """

    def __init__(self) -> None:
        self.memory: dict[torch.dtype, Tensor] = {}

    def of(self, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return memory of a shape, its content whatever was there."""
        n_elements = shape[0] * shape[1]
        kept = self.memory.get(dtype)
        if kept is None or kept.numel() < n_elements:
            with torch.inference_mode(False):  # else no pass with gradients could use it again
                kept = self.memory[dtype] = torch.empty(n_elements, dtype=dtype)
        return kept[:n_elements].view(shape)


scratch = Scratch()


def scratch_weight(packed: Tensor, kind: str, dtype: torch.dtype, *, how: str) -> Tensor:
    """Return the unpacked weight, (rows, columns), good until the next call."""
    on_cpu = packed.device.type == "cpu"
    out = scratch.of(unpacked_shape(packed, kind), dtype) if on_cpu else None
    # an operator's arguments are plain texts
    return unpack(packed, kind, dtype, how=cast("How", how), out=out)


@torch.library.custom_op("llamune::packed_linear", mutates_args=())
def packed_linear(x: Tensor, packed: Tensor, kind: str, n_pair_head: int, how: str) -> Tensor:
    """Return x Wᵀ: (…, columns) and packed (rows, row_bytes) -> (…, rows)."""
    weight = scratch_weight(packed, kind, x.dtype, how=how)
    return from_pairs(x @ weight.T, n_pair_head)


@packed_linear.register_fake
def _(x: Tensor, packed: Tensor, kind: str, n_pair_head: int, how: str) -> Tensor:  # noqa: ARG001
    return x.new_empty((*x.shape[:-1], packed.shape[0]))


@torch.library.custom_op("llamune::packed_linear_backward", mutates_args=())
def packed_linear_backward(
    gradient: Tensor, packed: Tensor, kind: str, n_pair_head: int, how: str
) -> Tensor:
    """Return gradient W: (…, rows) -> (…, columns)."""
    weight = scratch_weight(packed, kind, gradient.dtype, how=how)
    return to_pairs(gradient, n_pair_head) @ weight


@packed_linear_backward.register_fake
def _(gradient: Tensor, packed: Tensor, kind: str, n_pair_head: int, how: str) -> Tensor:  # noqa: ARG001
    return gradient.new_empty((*gradient.shape[:-1], unpacked_shape(packed, kind)[1]))


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    """Keep the packed bytes only."""
    _, packed, ctx.kind, ctx.n_pair_head, ctx.how = inputs
    ctx.save_for_backward(packed)


def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradient of x; the packed weight has none."""
    (packed,) = ctx.saved_tensors
    to_x = None
    if ctx.needs_input_grad[0]:
        to_x = packed_linear_backward(gradient, packed, ctx.kind, ctx.n_pair_head, ctx.how)
    return to_x, None, None, None, None


packed_linear.register_autograd(backward, setup_context=keep_for_backward)


class PackedLinear(nn.Linear):
    """A linear layer over packed rows; only its bias can be trained.

    Args:
        packed: uint8, (rows, row_bytes); read-only memory is fine, it is never written.
        kind: quant type's name.
        n_columns: inputs.
        dtype: of `weight` when asked for; `forward` computes in its input's type.
        bias: (rows,) or None.
        n_pair_head: heads whose rows the file keeps in pairs, 0 for none.
        how: the way that `unpack` takes.
    """

    bias: nn.Parameter | None  # type: ignore[assignment]  # nn.Linear declares it always there

    def __init__(
        self,
        packed: Tensor,
        kind: str,
        n_columns: int,
        *,
        dtype: torch.dtype,
        bias: Tensor | None = None,
        n_pair_head: int = 0,
        how: How = "torch",
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a dense weight
        self.in_features = n_columns
        self.out_features = packed.shape[0]
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        # not a buffer: DDP would broadcast it into read-only memory, state_dict would write it
        self.packed = packed
        self.kind = kind
        self.dtype = dtype
        self.n_pair_head = n_pair_head
        self.how: How = how

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # nn.Linear declares a parameter
        """The weight, (rows, columns), unpacked when it is used, anew each time."""
        if torch.compiler.is_compiling():
            return self.unpacked()
        shape = (self.out_features, self.in_features)
        return LazyWeight(self.unpacked, shape, self.dtype, self.packed.device)

    def unpacked(self) -> Tensor:
        """Return the dense weight, (rows, columns)."""
        dense = unpack(self.packed, self.kind, self.dtype, how=self.how)
        return from_pairs(dense, self.n_pair_head, dim=0)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.Linear's name
        """Return input Wᵀ + bias."""
        out: Tensor = packed_linear(input, self.packed, self.kind, self.n_pair_head, self.how)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        self.packed = fn(self.packed)
        return self

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, packed={self.kind}"
        )


class PackedEmbedding(nn.Embedding):
    """An embedding over packed rows; `scale` multiplies what it returns (Gemma)."""

    def __init__(
        self,
        packed: Tensor,
        kind: str,
        n_columns: int,
        *,
        dtype: torch.dtype,
        padding_idx: int | None = None,
        scale: float | None = None,
    ) -> None:
        nn.Module.__init__(self)  # nn.Embedding's own would make a dense weight
        self.num_embeddings = packed.shape[0]
        self.embedding_dim = n_columns
        self.padding_idx = padding_idx
        self.max_norm = None
        self.norm_type = 2.0
        self.scale_grad_by_freq = False
        self.sparse = False
        self.packed = packed
        self.kind = kind
        self.dtype = dtype
        self.scale = scale

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # nn.Embedding declares a parameter
        """The table, (rows, columns), unpacked when it is used, without `scale`."""
        shape = (self.num_embeddings, self.embedding_dim)
        return LazyWeight(self.unpacked, shape, self.dtype, self.packed.device)

    def unpacked(self) -> Tensor:
        """Return the dense table, (rows, columns), without `scale`."""
        return unpack(self.packed, self.kind, self.dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.Embedding's name
        """Return the rows of the token ids: (…) -> (…, columns)."""
        rows = unpack(self.packed[input.reshape(-1)], self.kind, self.dtype)
        rows = rows.view(*input.shape, self.embedding_dim)
        return rows if self.scale is None else rows * self.scale

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedEmbedding:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        self.packed = fn(self.packed)
        return self

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}, packed={self.kind}"
