"""The time forecast, fitted again to the first measured steps of a run."""

from __future__ import annotations

from dataclasses import replace

from llamune.plan.timing import Speed, TimePlan

__all__ = ["refit"]

FEWEST_STEPS = 3
FEWEST_SECONDS = 10.0
FEWEST_SHARE = 0.02  # of the tokens: fewer say little of the rest
SPREAD = 0.10  # how far the rest of a run is from its first steps; less, the more is done


def refit(time: TimePlan, *, share: float, steps_done: int, seconds: float) -> TimePlan | None:
    """Return the forecast of the whole run from what its first steps took.

    Args:
        time: the plan that the run began with.
        share: of the run's tokens, that went through the model so far.
        steps_done: optimizer steps made.
        seconds: that they took.

    Returns:
        None as long as too little is measured to say more than the plan does.
    """
    if steps_done < FEWEST_STEPS or seconds < FEWEST_SECONDS or share < FEWEST_SHARE:
        return None
    share = min(share, 1.0)
    left = seconds / share * (1 - share)
    gflops = time.flops * share / seconds / 1e9
    return replace(
        time,
        low=seconds + left / (1 + SPREAD),
        high=seconds + left * (1 + SPREAD),
        speed=Speed(
            low=gflops / (1 + SPREAD),
            high=gflops * (1 + SPREAD),
            source=f"measured over the first {steps_done} steps, {gflops:,.0f} GFLOP/s",
        ),
    )
