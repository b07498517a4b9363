"""A packed vocabulary with new tokens: their rows are floats that are trained, the others stay.

The loss reads `GrownOutput` slice by slice, as it reads a packed output: its logits never exist.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llamune.nn.packed import PackedEmbedding, PackedLinear
from llamune.nn.unpack import unpack

__all__ = ["GrownEmbedding", "GrownOutput", "last_rows"]


class GrownEmbedding(nn.Module):
    """A packed embedding whose last rows are trained.

    Args:
        table: the packed rows, the new ones among them.
        rows: float32 (new tokens, columns), what stands for the new ones.
    """

    def __init__(self, table: PackedEmbedding, rows: nn.Parameter) -> None:
        super().__init__()
        self.table = table
        self.rows = rows
        self.n_old = table.num_embeddings - rows.shape[0]

    @property
    def weight(self) -> Tensor:
        """The packed table, for what only asks for its type and device."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of the token ids: (…) -> (…, columns)."""
        old: Tensor = self.table(ids)
        new = nn.functional.embedding((ids - self.n_old).clamp(min=0), self.rows)
        if self.table.scale is not None:
            new = new * self.table.scale
        return torch.where((ids >= self.n_old).unsqueeze(-1), new.to(old.dtype), old)


class GrownOutput(nn.Module):
    """A packed output layer whose last rows are trained.

    Args:
        layer: the packed rows, the new ones among them.
        rows: float32 (new tokens, columns); those of the embedding where the two are tied.
    """

    def __init__(self, layer: PackedLinear, rows: nn.Parameter) -> None:
        super().__init__()
        self.layer = layer
        self.rows = rows
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.n_old = layer.out_features - rows.shape[0]

    @property
    def weight(self) -> Tensor:
        """The packed matrix, for what only asks for its type and device."""
        return self.layer.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits: (…, columns) -> (…, tokens)."""
        old = self.layer(hidden)[..., : self.n_old]
        return torch.cat([old, hidden @ self.rows.T.to(hidden.dtype)], dim=-1)


def last_rows(layer: PackedEmbedding | PackedLinear, n_rows: int) -> nn.Parameter:
    """Return the last rows of a packed table as numbers to train."""
    return nn.Parameter(unpack(layer.packed[-n_rows:], layer.kind, torch.float32).clone())
