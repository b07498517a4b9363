"""Calibration text as windows of token ids: several texts in a row, none sees another."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llamune.calibrate.errors import CalibrateError

__all__ = ["Windows", "mixed", "windows_of"]

LENGTH = 512
TOKENS_IN_BATCH = 2048


@dataclass(frozen=True)
class Windows:
    """Token ids and positions, int64 (n, length); positions begin anew with each text."""

    ids: Tensor
    positions: Tensor

    @property
    def n_tokens(self) -> int:
        """How many tokens there are."""
        return self.ids.numel()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids and positions, each (batch, length), of about `TOKENS_IN_BATCH` tokens."""
        step = max(1, TOKENS_IN_BATCH // self.ids.shape[1])
        for start in range(0, len(self.ids), step):
            yield self.ids[start : start + step], self.positions[start : start + step]


def windows_of(texts: Sequence[Sequence[int]], *, length: int = LENGTH) -> Windows:
    """Return texts laid one after another into windows; what does not fill one is left out.

    Args:
        texts: token ids of each text; a long one goes on in the next window, from position 0.
        length: tokens of a window; shorter when there are fewer in all.

    Raises:
        CalibrateError: there are no tokens.
    """
    ids: list[int] = []
    positions: list[int] = []
    total = sum(map(len, texts))
    if total == 0:
        raise CalibrateError("there is no text to calibrate on")
    length = min(length, total)
    for text in texts:
        for offset, token in enumerate(text):
            at_start = len(ids) % length == 0 or offset == 0
            positions.append(0 if at_start else positions[-1] + 1)
            ids.append(token)
    n = len(ids) // length
    shape = (n, length)
    return Windows(
        torch.tensor(ids[: n * length]).view(shape),
        torch.tensor(positions[: n * length]).view(shape),
    )


def mixed(
    own: Sequence[Sequence[int]],
    general: Sequence[Sequence[int]],
    *,
    general_share: float,
    n_tokens: int,
    seed: int = 0,
) -> list[Sequence[int]]:
    """Return texts of both kinds in random order, up to `n_tokens` in all.

    Args:
        own: texts of the domain.
        general: other texts.
        general_share: share of the tokens that are general, 0 to 1.
        n_tokens: how many tokens are wanted; each kind gives at most what it has.
        seed: of the choice and the order.
    """
    chooser = random.Random(seed)  # noqa: S311  an order, not a secret
    wanted_general = round(n_tokens * general_share)
    chosen = taken(own, n_tokens - wanted_general, chooser)
    chosen += taken(general, wanted_general, chooser)
    chooser.shuffle(chosen)
    return chosen


def taken(
    texts: Sequence[Sequence[int]], n_tokens: int, chooser: random.Random
) -> list[Sequence[int]]:
    """Return random texts of up to `n_tokens` tokens in all, the last one cut."""
    left = n_tokens
    chosen = []
    for text in chooser.sample(list(texts), len(texts)):
        if left <= 0:
            break
        chosen.append(text[:left])
        left -= len(text)
    return chosen
