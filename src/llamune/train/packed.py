"""Training every weight of a model in its blocks: what `train` needs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from llamune.arch import Family
from llamune.gguf import Entry, ModelFile
from llamune.runs import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llamune.train.loop import Loop

__all__ = ["packed_loop"]


def packed_loop(
    model: PreTrainedModel,
    source: ModelFile,
    family: Family,
    recipe: Recipe,
    *,
    entries: Mapping[str, Entry] | None = None,
) -> Callable[..., Loop]:
    """Make a packed model trainable, in place; return the `make_loop` of `train` for it.

    Args:
        model: from `nn.load`, of a file that is not mapped.
        source: that file, its matrices in the types of `trained_types`.
        family: what `describe` said of it.
        recipe: the settled recipe.
        entries: metadata for the files that are written, such as where they come from.
    """
    from llamune.train.packed_loop import PackedLoop
    from llamune.train.packed_weights import PackedWeights

    weights = PackedWeights(model, source, family, recipe, entries=entries)
    return partial(PackedLoop, weights=weights)
