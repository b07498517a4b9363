"""What another precision costs on text: perplexity, KL divergence, agreement, with error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from llamune.errors import LlamuneError
from llamune.evaluate.distributions import Agreement, Tally, token_losses

__all__ = ["TextQuality", "sample_text", "text_quality", "windows"]

WINDOW_TOKENS = 128
MIN_TOKENS = 32


@dataclass(frozen=True)
class TextQuality:
    """How one model file stands to a reference on the same text.

    Args:
        n_tokens: tokens whose loss counts.
        reference_loss: mean loss of the reference a token, nats.
        reference_error: its standard error.
        loss: mean loss of the other file, nats.
        error: its standard error.
        change: mean of the differences token by token, nats.
        change_error: its standard error, smaller than the others': the text's own spread drops out.
        agreement: how well the next-token distributions agree.
    """

    n_tokens: int
    reference_loss: float
    reference_error: float
    loss: float
    error: float
    change: float
    change_error: float
    agreement: Agreement

    @property
    def reference_perplexity(self) -> float:
        """Perplexity of the reference."""
        return math.exp(self.reference_loss)

    @property
    def perplexity(self) -> float:
        """Perplexity of the other file."""
        return math.exp(self.loss)

    @property
    def top1_error(self) -> float:
        """Standard error of the share of equal likeliest tokens."""
        share = self.agreement.top1
        return math.sqrt(share * (1 - share) / self.agreement.n_positions)


def sample_text() -> str:
    """Return the text that ships with us: a thousand words of plain English prose."""
    return resources.files(__package__).joinpath("sample_text.txt").read_text(encoding="utf-8")


def windows(ids: Sequence[int], *, bos_id: int | None) -> list[list[int]]:
    """Return a text cut into windows, each begun as the model expects a text to begin.

    Args:
        ids: tokens of the text.
        bos_id: put before each window, where the model wants that.

    Raises:
        LlamuneError: the text is too short to say anything.
    """
    if len(ids) < MIN_TOKENS:
        raise LlamuneError(
            f"the text has {len(ids)} tokens; at least {MIN_TOKENS} are needed",
            hint="give a longer text; a few thousand tokens make error bars small",
        )
    first = [] if bos_id is None else [bos_id]
    size = WINDOW_TOKENS - len(first)
    pieces = [list(ids[start : start + size]) for start in range(0, len(ids), size)]
    return [first + piece for piece in pieces if len(piece) >= MIN_TOKENS]


def text_quality(
    reference: Sequence[Path],
    other: Sequence[Path],
    sequences: Sequence[Sequence[int]],
    *,
    n_threads: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> TextQuality:
    """Run both files over the same text in llama.cpp and compare every next-token distribution.

    Args:
        reference: the reference file, or its shards.
        other: the file to be judged.
        sequences: token ids, as `windows` returns them.
        n_threads: CPU threads; default the idle cores.
        advance: called with the number of tokens just compared.
    """
    from llamune.engine import prompt_logits

    tally = Tally()
    losses: list[tuple[np.ndarray, np.ndarray]] = []
    pairs = zip(
        sequences,
        prompt_logits(list(reference), sequences, n_threads=n_threads),
        prompt_logits(list(other), sequences, n_threads=n_threads),
        strict=True,
    )
    for ids, first, second in pairs:
        tally.add(first, second)
        losses.append((token_losses(first, ids), token_losses(second, ids)))
        if advance is not None:
            advance(len(ids))
    before = np.concatenate([pair[0] for pair in losses])
    after = np.concatenate([pair[1] for pair in losses])
    return TextQuality(
        n_tokens=len(before),
        reference_loss=float(before.mean()),
        reference_error=standard_error(before),
        loss=float(after.mean()),
        error=standard_error(after),
        change=float((after - before).mean()),
        change_error=standard_error(after - before),
        agreement=tally.result(),
    )


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of a mean."""
    if len(values) < 2:
        return math.inf
    return float(values.std(ddof=1)) / math.sqrt(len(values))
