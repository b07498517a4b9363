"""Quantizing with what a text tells of the model, and importance matrices made from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llamune.errors import LlamuneError
from llamune.files import refuse_existing
from llamune.jobs.calibrating import (
    GENERAL_SHARE,
    Texts,
    can_calibrate,
    compensated_rounding,
    cost_of,
    general_texts,
    texts_of_files,
    wanted_tokens,
)
from llamune.jobs.preparing import Opened, opened
from llamune.jobs.type_mixes import Fit, fit_types

if TYPE_CHECKING:
    from llamune.calibrate import Compensated, Cost
    from llamune.convert import QuantizePlan
    from llamune.gguf import QuantType

__all__ = ["calibration_cost", "fit_plan", "make_importance", "rounding_for_plan"]

OnStep = Callable[[str], object]


def require_calibration() -> None:
    """Refuse early where the pass cannot run.

    Raises:
        LlamuneError: the extra `train` is not installed.
    """
    if not can_calibrate():
        raise LlamuneError(
            "calibrating needs torch", hint="install it with: pip install 'llamune[train]'"
        )


def rounding_for_plan(
    base: Opened,
    plan: QuantizePlan,
    calibrate: Sequence[Path],
    *,
    on_step: OnStep = lambda _: None,
) -> Compensated:
    """Return the rounding with error compensation for every linear layer that changes its type.

    Args:
        base: the model to be quantized.
        plan: which type each tensor gets.
        calibrate: data files, mixed with the general text that ships; none: that text alone.
        on_step: called with each step, in words.

    Raises:
        LlamuneError: the extra `train` is not installed.
        DataError: a data file cannot be read.
        CalibrateError: NaN or infinity among the weights or inputs.
    """
    require_calibration()
    own, general_share = own_texts(base, calibrate)
    return compensated_rounding(
        base,
        own,
        types=compensable(base, plan),
        weight_of=base.file.floats,
        identity={},
        general_share=general_share,
        on_step=on_step,
    )


def fit_plan(
    base: Opened,
    budget_bytes: int,
    calibrate: Sequence[Path],
    *,
    requantize: bool = False,
    on_step: OnStep = lambda _: None,
) -> Fit:
    """Choose the type of each tensor for the least predicted loss within a file's size.

    Args:
        base: the model to be quantized.
        budget_bytes: the new file's size, at most.
        calibrate: data files, mixed with the general text that ships; none: that text alone.
        requantize: also choose for tensors that are quantized already, which else keep their types.
        on_step: called with each step, in words.

    Raises:
        LlamuneError: the extra `train` is not installed, even the smallest types are too large, or
            there is nothing to choose.
        DataError: a data file cannot be read.
        CalibrateError: NaN or infinity among the weights or inputs.
    """
    require_calibration()
    own, general_share = own_texts(base, calibrate)
    return fit_types(
        base,
        budget_bytes,
        own,
        general_share=general_share,
        requantize=requantize,
        on_step=on_step,
    )


def calibration_cost(base: Opened, plan: QuantizePlan) -> Cost:
    """Return what rounding a plan with compensation would cost on this machine.

    Raises:
        LlamuneError: the extra `train` is not installed.
    """
    require_calibration()
    return cost_of(base, compensable(base, plan), wanted_tokens(base))


def compensable(base: Opened, plan: QuantizePlan) -> dict[str, QuantType]:
    """Return the linear layers that change their type, with their new types."""
    linear = {rule.gguf for rule in base.family.rules.values() if rule.role == "linear"}
    return {name: plan.types[name] for name in plan.changed if name in linear}


def own_texts(base: Opened, calibrate: Sequence[Path]) -> tuple[Texts, float]:
    """Return the texts of data files, and the share of general text beside them."""
    return (texts_of_files(calibrate, base), GENERAL_SHARE) if calibrate else ([], 1.0)


def make_importance(
    ref: str,
    data: Sequence[Path],
    out: Path,
    *,
    n_tokens: int,
    replace: bool = False,
    on_step: OnStep = lambda _: None,
) -> int:
    """Write the importance matrix of a model on some text.

    Args:
        ref: the model.
        data: data files or plain text; none: the general text that ships.
        out: the new file.
        n_tokens: tokens to read, at most.
        replace: whether a file at `out` may be replaced.
        on_step: called with each step, in words.

    Returns:
        how many tokens were read.

    Raises:
        LlamuneError: the extra `train` is not installed, or `out` exists.
        DataError: a data file cannot be read.
    """
    require_calibration()
    refuse_existing(out, replace=replace)
    from llamune.calibrate import mixed, squared_inputs, windows_of, write_importance
    from llamune.nn import load

    with opened(ref) as base:
        texts = texts_of_files(data, base) if data else general_texts(base)
        chosen = mixed(texts, [], general_share=0.0, n_tokens=n_tokens)
        windows = windows_of(chosen, length=min(512, base.family.sizes.context_length))
        on_step(f"reading {windows.n_tokens:,} tokens through {base.family.sizes.n_layer} layers")
        sums = squared_inputs(load(base.file, family=base.family), base.family, windows)
        write_importance(
            out,
            sums,
            n_tokens=windows.n_tokens,
            length=windows.ids.shape[1],
            datasets=[path.name for path in data] or ["general.txt"],
            replace=replace,
        )
    return windows.n_tokens
