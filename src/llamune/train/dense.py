"""Training every weight as a float: what can be chosen, and what `train` needs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llamune.arch import Family
from llamune.errors import UnsupportedError
from llamune.gguf import Entry, ModelFile
from llamune.runs import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llamune.train.loop import Loop

__all__ = ["DENSE_OPTIMIZERS", "SHARED_OPTIMIZERS", "check_dense", "dense_loop"]

DENSE_OPTIMIZERS: Mapping[str, str | None] = {
    **dict.fromkeys(
        ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"), None
    ),
    **dict.fromkeys(
        (
            "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit",
            "ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit",
            "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit",
            "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
        ),
        "bitsandbytes",
    ),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    "grokadamw": "grokadamw",
    "stable_adamw": "optimi",
}  # fmt: skip
"""what transformers calls an optimizer -> the package that it comes from, beside torch's own.
Others of transformers' move no single weights (galore, apollo), train in their own backward (lomo),
have a schedule of their own (schedule_free) or belong to one kind of device"""

SHARED_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
"""those that look at each number by itself, so that a part of a matrix goes as the whole would"""


def check_dense(recipe: Recipe, *, n_processes: int) -> None:
    """Refuse what cannot be trained this way, before anything is made.

    Args:
        recipe: the settled recipe, a dense one.
        n_processes: how many share the weights.

    Raises:
        UnsupportedError: the optimizer is not known or not installed; or, with several processes,
            it looks at whole matrices, or the recipe asks for answers on the way.
    """
    name = recipe.optimizer
    if name not in DENSE_OPTIMIZERS:
        raise UnsupportedError(
            f"no optimizer of dense weights is called {name!r}",
            hint=f"known: {', '.join(DENSE_OPTIMIZERS)}",
        )
    package = DENSE_OPTIMIZERS[name]
    if package is not None and find_spec(package) is None:
        raise UnsupportedError(
            f"optimizer {name} comes with {package}, which is not installed",
            hint=f"install {package}, or --optimizer adamw_torch",
        )
    if n_processes == 1:
        return
    if name not in SHARED_OPTIMIZERS:
        raise UnsupportedError(
            f"optimizer {name} looks at whole matrices, of which each of {n_processes} processes "
            "holds a part",
            hint=f"--optimizer {', '.join(SHARED_OPTIMIZERS[:-1])} or {SHARED_OPTIMIZERS[-1]}",
        )
    if recipe.sample is not None:
        raise UnsupportedError(
            f"sample: no one of {n_processes} processes holds the weights that would answer",
            hint="leave --sample out; the validation loss tells how far it is",
        )


def dense_loop(
    model: PreTrainedModel,
    source: ModelFile,
    family: Family,
    recipe: Recipe,
    *,
    entries: Mapping[str, Entry] | None = None,
) -> Callable[..., Loop]:
    """Return the `make_loop` of `train` for a dense model.

    Args:
        model: from `nn.load` with `unpack`; with a mesh where several processes train it.
        source: the file it was loaded from.
        family: what `describe` said of it.
        recipe: the settled recipe.
        entries: metadata for the file that is written, such as where it comes from.
    """
    from llamune.train.dense_loop import DenseLoop, freeze_tables

    freeze_tables(model, family, recipe)
    return partial(DenseLoop, source=source, family=family, entries=dict(entries or {}))
