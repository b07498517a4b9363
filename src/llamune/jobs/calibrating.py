"""Rounding with error compensation as part of a job: which text, how long, and the pass itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamune.data import DataFile, prepare, read_records
from llamune.gguf import QuantType
from llamune.jobs.formats import bytes_text, seconds_text
from llamune.jobs.merge_measures import unchanged_files
from llamune.jobs.preparing import held_apart
from llamune.runs import Run
from llamune.store import home

if TYPE_CHECKING:
    from llamune.calibrate import Compensated, Cost, TensorGain, Windows
    from llamune.jobs.preparing import Opened

__all__ = [
    "calibration_windows",
    "can_calibrate",
    "compensated_rounding",
    "cost_of",
    "cost_text",
    "gains_text",
    "general_texts",
    "texts_of_files",
    "texts_of_run",
    "wanted_tokens",
]

FEWEST_TOKENS = 8192
TOKENS_PER_COLUMN = 4  # of the model's width: fewer say little of each input's second moments
GENERAL_SHARE = 0.125  # of the tokens; more costs the domain: `benchmarks/general_share.py`
KEPT_SECONDS = 7 * 86_400  # how long a stopped pass can be taken up again

Texts = list[Sequence[int]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
WeightOf = Callable[[str, int, int], Floats]
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


def calibration_windows(
    base: Opened, own: Texts, *, general_share: float = GENERAL_SHARE
) -> Windows:
    """Return the text that a pass reads.

    Args:
        base: the model.
        own: texts of the domain, as token ids.
        general_share: share of the tokens that are general text.

    Raises:
        CalibrateError: there is no text.
    """
    from llamune.calibrate import mixed, windows_of

    n_tokens = wanted_tokens(base)
    general = general_texts(base) if general_share else []
    texts = mixed(own, general, general_share=general_share, n_tokens=n_tokens)
    return windows_of(texts, length=min(512, base.family.sizes.context_length))


def wanted_tokens(base: Opened) -> int:
    """Return how many tokens a pass reads where there are as many."""
    return max(FEWEST_TOKENS, TOKENS_PER_COLUMN * base.family.sizes.d_model)


def cost_of(base: Opened, types: Mapping[str, QuantType], n_tokens: int) -> Cost:
    """Return what a pass will cost on this machine, from two short timed trials."""
    from llamune.calibrate import forecast
    from llamune.nn import choose_compute

    speed = choose_compute(base.family).gflops
    return forecast(base.family, types, n_tokens=n_tokens, gflops=speed)


def cost_text(cost: Cost) -> str:
    """Return a cost in words."""
    return (
        f"calibrating on {cost.n_tokens:,} tokens: about {seconds_text(cost.seconds)}, and "
        f"{bytes_text(cost.memory_bytes)} of memory beside the packed model (estimates)"
    )


def compensated_rounding(
    base: Opened,
    own: Texts,
    *,
    types: Mapping[str, QuantType],
    weight_of: WeightOf,
    identity: Mapping[str, Any],
    general_share: float = GENERAL_SHARE,
    on_step: OnStep = lambda _: None,
) -> Compensated:
    """Run the pass over a model and return its rounding.

    The rounded tensors are kept under `home()` until `discard` is called: a pass that was stopped
    goes on after the last layer that was finished.

    Args:
        base: the model whose packed weights the pass runs on.
        own: texts of the domain, as token ids.
        types: tensor name → the quant type to round it to.
        weight_of: gives rows of a tensor's intended weights: (name, start, stop) → float32
            (rows, columns), in file order.
        identity: what the weights depend on beside the model: digests of all that changes it.
        general_share: share of the calibration tokens that are general text.
        on_step: called with each step, in words; what it will cost comes first.

    Raises:
        CalibrateError: NaN or infinity among the weights or inputs, or no text.
    """
    from llamune.calibrate import round_model
    from llamune.nn import load

    windows = calibration_windows(base, own, general_share=general_share)
    on_step(cost_text(cost_of(base, types, windows.n_tokens)))
    fingerprint = {
        **identity_of(base),
        **identity,
        "types": {name: kind.name for name, kind in types.items()},
        "ids": windows.ids.tolist(),
        "positions": windows.positions.tolist(),
    }
    return round_model(
        load(base.file, family=base.family),
        base.family,
        windows,
        weight_of=weight_of,
        types=types,
        folder=kept_folder(fingerprint),
        fingerprint=fingerprint,
        advance=counted("rounding with compensation", base.family.sizes.n_layer, on_step),
    )


def identity_of(base: Opened) -> dict[str, Any]:
    """Return what tells a model's file from any other, without reading all of it."""
    if base.model.digest:
        return {"model": base.model.digest}
    states = [(path, path.stat()) for path in base.model.paths]
    return {"model": [[str(path), state.st_size, state.st_mtime_ns] for path, state in states]}


def kept_folder(fingerprint: Mapping[str, Any]) -> Path:
    """Return the folder of a pass, after deleting those that nobody took up again."""
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    parent = home() / "cache" / "rounding"
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        if time.time() - old.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return parent / hashlib.sha256(text.encode()).hexdigest()[:16]


def counted(what: str, n_layer: int, on_step: OnStep) -> Callable[[int], None]:
    """Return what counts finished layers and says so five times."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done == n_layer or done % max(1, n_layer // 5) == 0:
            on_step(f"{what}: layer {done} of {n_layer}")

    return advance


def gains_text(gains: Sequence[TensorGain]) -> list[str]:
    """Return what compensation won, a line for each kind of tensor, and what it could not do."""
    kinds: dict[tuple[str, str], list[TensorGain]] = {}
    for gain in gains:
        part = gain.name.removesuffix(".weight").rpartition(".")[2]
        kinds.setdefault((part, gain.type), []).append(gain)
    lines = []
    for (part, kind), some in kinds.items():
        ours, nearest = (
            sum(values) / len(some)
            for values in ([one.error for one in some], [one.nearest_error for one in some])
        )
        lines.append(
            f"{part} to {kind}: output error {ours:.2%}, to nearest {nearest:.2%} "
            f"(mean of {len(some)})"
        )
    if singular := [gain.name for gain in gains if not gain.damping]:
        lines.append(f"rounded to nearest, nothing to compensate with: {', '.join(singular)}")
    if dead := [gain.name for gain in gains if gain.n_dead]:
        lines.append(f"inputs that the text never used, rounded by themselves: {', '.join(dead)}")
    return lines
