"""New tokens: their rows of the embedding and the output are trained, all others stay packed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llamune.adapter import NEW_ROWS
from llamune.nn import GrownEmbedding, GrownOutput, last_rows
from llamune.train.errors import TrainError

if TYPE_CHECKING:
    from torch import Tensor

    from llamune.nn import PackedEmbedding, PackedLinear

__all__ = ["grow", "new_rows", "put_new_rows"]

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"  # as GGUF names the two tables


def grow(model: Any, n_new: int) -> None:
    """Let the rows of the last tokens be trained, beside the adapter.

    Args:
        model: a PEFT model whose base has the new tokens in its packed tables.
        n_new: how many there are.
    """
    base = model.get_base_model()
    table = cast("PackedEmbedding", base.get_input_embeddings())
    output = cast("PackedLinear", base.lm_head)
    rows = last_rows(table, n_new)
    is_tied = output.packed is table.packed
    base.set_input_embeddings(GrownEmbedding(table, rows))
    base.lm_head = GrownOutput(output, rows if is_tied else last_rows(output, n_new))


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
