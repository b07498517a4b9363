"""Next-token distributions held against each other: the one place that computes KL and losses.

All sums are made in float64: a proof asks for a mean KL below 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Agreement",
    "Tally",
    "agreement",
    "bits_per_byte",
    "kl_divergence",
    "log_softmax",
    "perplexity",
    "token_losses",
]

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

ROWS_AT_ONCE = 32  # a vocabulary of 256,000 in float64 takes 2 MB a row, several times over


def log_softmax(logits: Floats) -> Doubles:
    """Return log-probabilities, (n, n_vocab) float64, of logits (n, n_vocab)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def kl_divergence(reference: Floats, other: Floats) -> Doubles:
    """Return KL(reference ‖ other) a position, in nats.

    Args:
        reference: logits (n, n_vocab), up to a constant a row.
        other: logits (n, n_vocab), up to a constant a row.

    Returns:
        (n,) float64, each at least 0 up to rounding.
    """
    out = np.empty(len(reference))
    for rows in row_slices(len(reference)):
        p, q = log_softmax(reference[rows]), log_softmax(other[rows])
        out[rows] = (np.exp(p) * (p - q)).sum(axis=-1)
    return out


def row_slices(n_rows: int) -> Iterator[slice]:
    """Yield slices that cover `n_rows` a few at a time."""
    for start in range(0, n_rows, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two sets of distributions agree.

    Attributes:
        n_positions: positions compared.
        n_same_top: positions where both find the same token likeliest.
        mean_kl: mean KL(reference ‖ other) a position, nats.
        max_kl: the largest, nats.
        kl_error: standard error of `mean_kl`, nats; 0 for a single position.
    """

    n_positions: int
    n_same_top: int
    mean_kl: float
    max_kl: float
    kl_error: float

    @property
    def top1(self) -> float:
        """Share of positions where both find the same token likeliest."""
        return self.n_same_top / self.n_positions


class Tally:
    """Adds up an `Agreement` a pair of arrays at a time."""

    def __init__(self) -> None:
        self._divergences: list[Doubles] = []
        self._n_same = 0

    def add(self, reference: Floats, other: Floats) -> None:
        """Compare two arrays of logits, (n, n_vocab) each.

        Raises:
            ValueError: they differ in shape.
        """
        if reference.shape != other.shape:
            raise ValueError(f"logits of shape {reference.shape} against {other.shape}")
        self._divergences.append(kl_divergence(reference, other))
        self._n_same += int((reference.argmax(axis=-1) == other.argmax(axis=-1)).sum())

    def result(self) -> Agreement:
        """Return the agreement of all that was added.

        Raises:
            ValueError: nothing was.
        """
        if not self._divergences:
            raise ValueError("no distributions to compare")
        every = np.concatenate(self._divergences)
        error = every.std(ddof=1) / math.sqrt(len(every)) if len(every) > 1 else 0.0
        return Agreement(
            n_positions=len(every),
            n_same_top=self._n_same,
            mean_kl=float(every.mean()),
            max_kl=float(every.max()),
            kl_error=float(error),
        )


def agreement(pairs: Iterable[tuple[Floats, Floats]]) -> Agreement:
    """Hold pairs of (reference, other) logits against each other.

    Args:
        pairs: arrays (n, n_vocab), one pair a sequence.

    Raises:
        ValueError: there are no pairs, or two arrays differ in shape.
    """
    tally = Tally()
    for reference, other in pairs:
        tally.add(reference, other)
    return tally.result()


def token_losses(logits: Floats, ids: Sequence[int]) -> Doubles:
    """Return the negative log-probability of each token after the first, in nats.

    Args:
        logits: (n, n_vocab) as they follow each token of `ids`.
        ids: the n tokens.

    Returns:
        (n - 1,) float64.
    """
    targets = np.asarray(ids[1:])
    out = np.empty(len(targets))
    for rows in row_slices(len(targets)):
        p = log_softmax(logits[: len(targets)][rows])
        out[rows] = -np.take_along_axis(p, targets[rows, None], axis=-1)[:, 0]
    return out


def perplexity(losses: Doubles | Sequence[float]) -> float:
    """Return exp of the mean loss (nats a token)."""
    return float(np.exp(np.mean(losses)))


def bits_per_byte(losses: Doubles | Sequence[float], n_bytes: int) -> float:
    """Return the bits that a text costs for each of its UTF-8 bytes.

    Unlike perplexity, this can be compared between models with different tokenizers.
    """
    return float(np.sum(losses)) / math.log(2) / n_bytes
