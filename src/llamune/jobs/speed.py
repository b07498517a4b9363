"""Measuring how fast a model trains here, before its first long run is promised a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from llamune.jobs.preparing import Prepared
from llamune.plan import is_uncalibrated, plan_settings

if TYPE_CHECKING:
    from llamune.arch import Family
    from llamune.nn import Compute

__all__ = ["with_measured_steps"]

WORTH_MEASURING_SECONDS = 180.0  # of training; measuring takes about fifteen


def with_measured_steps(
    prepared: Prepared, measure: Callable[[Family], Compute | None]
) -> Prepared:
    """Return a training with its time planned from real steps of the model's first blocks.

    Measured once a model and machine, and not for a training that is over soon.

    Args:
        prepared: the training, adapters alone: those are the steps that are measured.
        measure: returns what this machine computes in.
    """
    plan = prepared.plan
    soon = plan.time.high < WORTH_MEASURING_SECONDS
    if soon or not plan.settings.is_adapter or not is_uncalibrated(plan):
        return prepared
    base = prepared.opened
    compute = measure(base.family)
    if compute is None:
        return prepared
    from llamune.train import measure_steps

    found = measure_steps(base.file, base.family, compute, file_type=plan.shape.file_type)
    if not found.kept:  # beside busy programs: the trial's forecast is no worse
        return prepared
    again = plan_settings(plan.shape, plan.settings, plan.work, machine=plan.machine)
    return replace(prepared, plan=again)
