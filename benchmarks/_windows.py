"""Pieces of text of one length, as benchmarks train on them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Window"]


@dataclass(frozen=True)
class Window:
    """Some tokens, all of which are trained."""

    ids: list[int]

    @property
    def trained(self) -> list[bool]:
        """Which tokens the loss counts."""
        return [True] * len(self.ids)

    @property
    def n_trained(self) -> int:
        """How many tokens the loss is over."""
        return len(self.ids)
