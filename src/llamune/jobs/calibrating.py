"""Rounding with error compensation as part of a job: which text, how long, and the pass itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamune.data import DataFile, prepare, read_records
from llamune.gguf import QuantType
from llamune.jobs.merge_measures import unchanged_files
from llamune.jobs.preparing import held_apart
from llamune.runs import Run

if TYPE_CHECKING:
    from llamune.calibrate import Compensated
    from llamune.jobs.preparing import Opened

__all__ = [
    "can_calibrate",
    "compensated_rounding",
    "general_texts",
    "texts_of_files",
    "texts_of_run",
]

FEWEST_TOKENS = 4096
TOKENS_PER_COLUMN = 4  # of the model's width: fewer say little of each input's second moments
GENERAL_SHARE = 0.25  # of the tokens; what it costs and saves is not measured yet

Texts = list[Sequence[int]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
OnStep = Callable[[str], object]


def can_calibrate() -> bool:
    """Whether what the pass needs is installed (the extra `train`)."""
    return importlib.util.find_spec("torch") is not None


def general_texts(base: Opened) -> Texts:
    """Return the general text that ships with the project, as token ids, a paragraph each."""
    package = resources.files("llamune.calibrate")
    text = package.joinpath("general.txt").read_text(encoding="utf-8")
    paragraphs = [part.strip() for part in text.split("\n\n")]
    return [base.tokenizer.encode(part) for part in paragraphs if part]


def texts_of_files(paths: Sequence[Path], base: Opened) -> Texts:
    """Return the records of data files, rendered through the model's own template.

    Raises:
        DataError: a file cannot be read or rendered.
    """
    return rendered([DataFile(path) for path in paths], base)


def texts_of_run(run: Run, base: Opened) -> Texts | None:
    """Return what a run was trained on, or None when its data files are not as they were."""
    files = unchanged_files(run)
    if files is None:
        return None
    recipe = run.recipe
    return rendered(files, base, validation=recipe.validation, seed=recipe.seed)


def rendered(
    files: Sequence[DataFile], base: Opened, *, validation: float = 0.0, seed: int = 0
) -> Texts:
    """Return the records of data files as token ids, those held out left aside."""
    records = read_records(files).records
    if validation:
        records, _ = held_apart(records, validation=validation, seed=seed)
    context = base.family.sizes.context_length
    data = prepare(
        list(records),
        base.template,
        base.tokenizer,
        max_length=min(2048, context),
        context_length=context,
        train_on="all",
        seed=seed,
    )
    return [record.ids for record in data.rendered]


def compensated_rounding(
    base: Opened,
    own: Texts,
    *,
    types: Mapping[str, QuantType],
    weight_of: Callable[[str], Floats],
    folder: Path,
    identity: Mapping[str, Any],
    general_share: float = GENERAL_SHARE,
    on_step: OnStep = lambda _: None,
) -> Compensated:
    """Run the pass over a model and return its rounding.

    Args:
        base: the model whose packed weights the pass runs on.
        own: texts of the domain, as token ids.
        types: tensor name → the quant type to round it to.
        weight_of: gives a tensor's intended weights, float32 (rows, columns), in file order.
        folder: where rounded tensors are kept until they are written.
        identity: what the result depends on beside the text and the types.
        general_share: share of the calibration tokens that are general text.
        on_step: called with each step, in words.

    Raises:
        CalibrateError: NaN or infinity among the weights or inputs, or no text.
    """
    from llamune.calibrate import mixed, round_model, windows_of
    from llamune.nn import load

    n_tokens = max(FEWEST_TOKENS, TOKENS_PER_COLUMN * base.family.sizes.d_model)
    general = general_texts(base) if general_share else []
    texts = mixed(own, general, general_share=general_share, n_tokens=n_tokens)
    windows = windows_of(texts, length=min(512, base.family.sizes.context_length))
    n_layer = base.family.sizes.n_layer
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done == n_layer or done % max(1, n_layer // 5) == 0:
            on_step(f"rounding with compensation: layer {done} of {n_layer}")

    return round_model(
        load(base.file, family=base.family),
        base.family,
        windows,
        weight_of=weight_of,
        types=types,
        folder=folder,
        fingerprint={
            **identity,
            "types": {name: kind.name for name, kind in types.items()},
            "ids": windows.ids.tolist(),
            "positions": windows.positions.tolist(),
        },
        advance=advance,
    )
