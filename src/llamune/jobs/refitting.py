"""The forecast of a running training, fitted again when its first steps are measured."""

from __future__ import annotations

from llamune.jobs.events import OnJobEvent, Refitted
from llamune.jobs.preparing import Prepared
from llamune.plan import refit
from llamune.runs import Run
from llamune.train import Event as TrainEvent
from llamune.train import OnEvent, StepDone, TrainingStarted

__all__ = ["refitting"]


def refitting(run: Run, prepared: Prepared, on_event: OnJobEvent) -> OnEvent:
    """Return what passes events on, and once says and records the new forecast.

    Args:
        run: its record gets the forecast.
        prepared: recipe and plan.
        on_event: gets every event of the training, and `Refitted` once.
    """
    watcher = Refitting(run, prepared, on_event)
    return watcher.see


class Refitting:
    """Counts the steps of this process until they tell more than the plan did."""

    def __init__(self, run: Run, prepared: Prepared, on_event: OnJobEvent) -> None:
        self.run = run
        self.plan = prepared.plan
        recipe = prepared.recipe
        self.all_tokens = recipe.steps * recipe.batch * prepared.plan.work.mean_length
        self.on_event = on_event
        self.tokens = 0
        self.done = False

    def see(self, event: TrainEvent) -> None:
        """Pass an event on; after a step, look whether there is a better forecast."""
        self.on_event(event)
        if isinstance(event, TrainingStarted):
            # a run that goes on was measured before it stopped
            self.done = event.steps_done > 0
        elif isinstance(event, StepDone) and not self.done:
            self.tokens += event.tokens
            self.fit(event)

    def fit(self, event: StepDone) -> None:
        """Record and say the new forecast, if enough is measured."""
        time = refit(
            self.plan.time,
            share=self.tokens / self.all_tokens,
            steps_done=event.step,
            seconds=event.seconds,
        )
        if time is None:
            return
        self.done = True
        seconds = self.run.record.seconds
        fitted = {
            "refitted_low": round(time.low, 3),
            "refitted_high": round(time.high, 3),
            "refitted_after_steps": event.step,
        }
        self.run.update(seconds=seconds.model_copy(update=fitted))
        self.on_event(Refitted(low=time.low, high=time.high, after_steps=event.step))
