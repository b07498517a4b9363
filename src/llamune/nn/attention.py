"""Causal attention on the CPU: blocks of plain matrix products, scores made again in backward.

A block of queries sees only the keys up to its last position, so half the scores are never made;
what is kept for backward is the output and one number a query. torch's fused CPU kernel takes
several times longer in backward and knows no softcap. Registered with transformers as the
attention named `llamune`; on other devices transformers' own kernels are used.

Source: FlashAttention-2, arXiv:2307.08691, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NAME", "causal_attention", "register_attention"]

NAME = "llamune"
BLOCK = 64  # queries; scores of a block stay in the cache


@torch.library.custom_op("llamune::causal_attention", mutates_args=())
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    numbers: list[float],
) -> tuple[Tensor, Tensor]:
    """Return the attention output and each query's log of summed scores.

    Args:
        query: (batch, head, length, head_dim).
        key: (batch, head_kv, length_kv, head_dim), the last `length` of them the queries' own.
        value: as `key`.
        mask: bool, (batch or 1, 1, length, length_kv), True where a query may look; None: all
            keys up to its own.
        numbers: scaling of scores, softcap (0: none), window in tokens (0: none).
    """
    parts = Parts.of(query, key, value, mask, numbers)
    out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
    grouped = out.view(out.shape[0], out.shape[1], -1, parts.group, out.shape[3])
    totals = query.new_empty(parts.query.shape[:3])
    for block in parts.blocks():
        scores = parts.scores(block)
        highest = scores.amax(-1, keepdim=True).clamp_min_(torch.finfo(scores.dtype).min)
        scores.sub_(highest).exp_()
        total = scores.sum(-1, keepdim=True).clamp_min_(torch.finfo(scores.dtype).tiny)
        found = parts.by_heads(scores) @ parts.value[:, block.first : block.last]
        found = found.view(*scores.shape[:3], -1).div_(total)  # (batch * head_kv, group, block, d)
        grouped[:, block.start : block.stop] = parts.ungrouped(found)
        totals[:, :, block.start : block.stop] = highest.add_(total.log_()).squeeze(-1)
    return out.transpose(1, 2), totals


@attend.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001
    mask: Tensor | None,  # noqa: ARG001
    numbers: list[float],  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    batch, n_head, length, head_dim = query.shape
    n_head_kv = key.shape[1]
    out = query.new_empty(batch, length, n_head, head_dim).transpose(1, 2)
    return out, query.new_empty(batch * n_head_kv, n_head // n_head_kv, length)


@torch.library.custom_op("llamune::causal_attention_backward", mutates_args=())
def attend_backward(  # noqa: PLR0917  operators have no keyword arguments here
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    out: Tensor,
    totals: Tensor,
    numbers: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value; scores are made again block by block."""
    parts = Parts.of(query, key, value, mask, numbers)
    to_out = parts.grouped(gradient)  # (batch * head_kv, group, length, d)
    weighted = (to_out * parts.grouped(out)).sum(-1, keepdim=True)
    to_query = query.new_empty(parts.query.shape)
    to_key, to_value = key.new_zeros(parts.key.shape), value.new_zeros(parts.value.shape)
    for block in parts.blocks():
        rows, columns = slice(block.start, block.stop), slice(block.first, block.last)
        scores = parts.scores(block)
        slope = parts.softcap_slope(scores)
        share = scores.sub_(totals[:, :, rows].unsqueeze(-1)).exp_()
        to_block = parts.by_heads(to_out[:, :, rows])
        to_value[:, columns].baddbmm_(parts.by_heads(share).mT, to_block)
        to_scores = (to_block @ parts.value[:, columns].mT).view_as(share)
        to_scores.sub_(weighted[:, :, rows]).mul_(share)
        if slope is not None:
            to_scores.mul_(slope)
        flat = parts.by_heads(to_scores)
        to_query[:, :, rows] = (flat @ parts.key[:, columns]).view(*share.shape[:3], -1)
        to_key[:, columns].baddbmm_(flat.mT, parts.by_heads(parts.query[:, :, rows]))
    shape_kv = key.shape
    return (
        to_query.mul_(parts.scaling).view_as(query),
        to_key.view(shape_kv),
        to_value.view(shape_kv),
    )


@attend_backward.register_fake
def _(  # noqa: PLR0917
    gradient: Tensor,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,  # noqa: ARG001
    out: Tensor,  # noqa: ARG001
    totals: Tensor,  # noqa: ARG001
    numbers: list[float],  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        query.new_empty(query.shape),
        key.new_empty(key.shape),
        value.new_empty(value.shape),
    )


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep the inputs, the output and the sums; no scores."""
    query, key, value, mask, ctx.numbers = inputs
    out, totals = output
    ctx.mark_non_differentiable(totals)
    ctx.save_for_backward(query, key, value, mask, out, totals)


def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    """Return the gradients of query, key and value."""
    query, key, value, mask, out, totals = ctx.saved_tensors
    gradients = attend_backward(gradient, query, key, value, mask, out, totals, ctx.numbers)
    return *gradients, None, None


attend.register_autograd(backward, setup_context=keep_for_backward)


@dataclass(frozen=True)
class Block:
    """Queries `start` to `stop` and the keys `first` to `last` that they may see."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Parts:
    """The inputs with heads that share keys side by side, and what both passes do with them."""

    query: Tensor  # (batch * head_kv, group, length, d), scaled
    key: Tensor  # (batch * head_kv, length_kv, d)
    value: Tensor  # (batch * head_kv, length_kv, d)
    mask: Tensor | None
    batch: int
    group: int
    scaling: float
    softcap: float
    window: int

    @classmethod
    def of(
        cls, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, numbers: list[float]
    ) -> Parts:
        """Return the parts of one call."""
        batch, n_head, length, head_dim = query.shape
        n_head_kv, length_kv = key.shape[1:3]
        scaling, softcap, window = numbers
        shape = (batch * n_head_kv, n_head // n_head_kv, length, head_dim)
        return cls(
            query=(query * scaling).reshape(shape),
            key=key.reshape(-1, length_kv, head_dim),
            value=value.reshape(-1, length_kv, head_dim),
            mask=mask,
            batch=batch,
            group=shape[1],
            scaling=scaling,
            softcap=softcap,
            window=int(window),
        )

    def grouped(self, values: Tensor) -> Tensor:
        """(batch, head, length, d) -> (batch * head_kv, group, length, d)."""
        return values.reshape(self.query.shape)

    def ungrouped(self, values: Tensor) -> Tensor:
        """(batch * head_kv, group, block, d) -> (batch, block, head_kv, group, d)."""
        return values.view(self.batch, -1, *values.shape[1:]).permute(0, 3, 1, 2, 4)

    @staticmethod
    def by_heads(values: Tensor) -> Tensor:
        """(batch * head_kv, group, block, x) -> (batch * head_kv, group * block, x)."""
        return values.reshape(values.shape[0], -1, values.shape[-1])

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of queries."""
        length, length_kv = self.query.shape[2], self.key.shape[1]
        before = length_kv - length  # keys from a cache
        for start in range(0, length, BLOCK):
            stop = min(start + BLOCK, length)
            first = max(0, before + start - self.window + 1) if self.window else 0
            yield Block(start, stop, first, before + stop)

    def scores(self, block: Block) -> Tensor:
        """Return capped scores, -inf where a query may not look, (…, block, keys)."""
        query = self.by_heads(self.query[:, :, block.start : block.stop])
        scores = query @ self.key[:, block.first : block.last].mT
        scores = scores.view(self.query.shape[0], self.group, -1, scores.shape[-1])
        if self.softcap:
            scores.div_(self.softcap).tanh_().mul_(self.softcap)
        hidden = self.hidden(block, scores)
        if hidden is not None:
            view = scores.view(self.batch, -1, *scores.shape[2:])
            view[..., view.shape[-1] - hidden.shape[-1] :].masked_fill_(hidden, float("-inf"))
        return scores

    def hidden(self, block: Block, scores: Tensor) -> Tensor | None:
        """Return where the queries of a block may not look, over their last keys."""
        if self.mask is not None:
            seen = self.mask[:, :, block.start : block.stop, block.first : block.last]
            return seen.logical_not()
        n_query = block.stop - block.start
        if self.window:  # rows of the whole key range, as the window ends inside it
            query = torch.arange(block.last - n_query, block.last, device=scores.device)
            key = torch.arange(block.first, block.last, device=scores.device)
            ahead = query.unsqueeze(1) - key
            return (ahead < 0) | (ahead >= self.window)
        if n_query == 1:
            return None
        ones = torch.ones(n_query, n_query, dtype=torch.bool, device=scores.device)
        return ones.triu_(1)

    def softcap_slope(self, scores: Tensor) -> Tensor | None:
        """Return the derivative of the cap at capped scores."""
        if not self.softcap:
            return None
        return 1.0 - (scores / self.softcap).nan_to_num_(neginf=-1.0).square_()


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    mask: Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Return causal attention with grouped heads, (batch, head, length, head_dim).

    Args:
        query: (batch, head, length, head_dim).
        key: (batch, head_kv, length_kv, head_dim).
        value: as `key`.
        scaling: what scores are multiplied by.
        mask: bool, (batch or 1, 1, length, length_kv), True where a query may look, the causal
            order and the window included; None: all keys up to its own, as far as the window.
        softcap: scores become softcap * tanh(scores / softcap).
        window: tokens that a query sees, itself included.
    """
    numbers = [scaling, softcap or 0.0, float(window or 0)]
    found: tuple[Tensor, Tensor] = attend(query, key, value, mask, numbers)
    return found[0]


def attention(  # noqa: PLR0917  transformers passes them by position
    module: nn.Module,  # noqa: ARG001  transformers passes it
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return attention as transformers' layers call it, (batch, length, head, head_dim)."""
    out = causal_attention(
        query,
        key,
        value,
        scaling=scaling,
        mask=attention_mask,
        softcap=softcap,
        window=sliding_window,
    )
    return out.transpose(1, 2), None


def register_attention() -> str:
    """Make the attention known to transformers and return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
