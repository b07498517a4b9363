"""New tokens: their rows of the embedding and the output are trained, all others stay packed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from llamune.adapter import NEW_ROWS
from llamune.train.errors import TrainError

if TYPE_CHECKING:
    from llamune.nn import PackedEmbedding, PackedLinear

__all__ = ["grow", "new_rows", "put_new_rows"]

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"  # as GGUF names the two tables


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

    @property
    def weight(self) -> Tensor:
        """The packed matrix, for what only asks for its type and device."""
        return self.layer.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits: (…, columns) -> (…, tokens)."""
        old = self.layer(hidden)[..., : self.out_features - self.rows.shape[0]]
        return torch.cat([old, hidden @ self.rows.T.to(hidden.dtype)], dim=-1)


def grow(model: Any, n_new: int) -> None:
    """Let the rows of the last tokens be trained, beside the adapter.

    Args:
        model: a PEFT model whose base has the new tokens in its packed tables.
        n_new: how many there are.
    """
    base = model.get_base_model()
    table = cast("PackedEmbedding", base.get_input_embeddings())
    output = cast("PackedLinear", base.lm_head)
    rows = trained_rows(table, n_new)
    is_tied = output.packed is table.packed
    base.set_input_embeddings(GrownEmbedding(table, rows))
    base.lm_head = GrownOutput(output, rows if is_tied else trained_rows(output, n_new))


def trained_rows(layer: PackedEmbedding | PackedLinear, n_new: int) -> nn.Parameter:
    """Return the last rows of a packed table as numbers to train."""
    from llamune.nn import unpack

    return nn.Parameter(unpack(layer.packed[-n_new:], layer.kind, torch.float32).clone())


def new_rows(model: Any) -> dict[str, Tensor]:
    """Return the trained rows by the name of their table; nothing where no token is new."""
    base = model.get_base_model()
    table, output = base.get_input_embeddings(), base.lm_head
    if not isinstance(table, GrownEmbedding):
        return {}
    found = {EMBEDDING: table.rows.detach()}
    if output.rows is not table.rows:
        found[OUTPUT] = output.rows.detach()
    return found


def put_new_rows(model: Any, folder: Path) -> None:
    """Put back the rows that a checkpoint holds.

    Raises:
        TrainError: it has none, or others than the model.
    """
    from safetensors.torch import load_file

    wanted = new_rows(model)
    if not wanted:
        return
    path = folder / NEW_ROWS
    kept: Mapping[str, Tensor] = load_file(path) if path.is_file() else {}
    if {name: rows.shape for name, rows in kept.items()} != {
        name: rows.shape for name, rows in wanted.items()
    }:
        raise TrainError(f"{path}: not the rows of this run's new tokens")
    for name, rows in wanted.items():
        rows.copy_(kept[name])
