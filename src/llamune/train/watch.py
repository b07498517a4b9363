"""Watches the loop: says what happens, and decides when to validate, save and stop."""
# ruff: noqa: ARG002  the methods' signatures are those of `TrainerCallback`

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from llamune.runs import Recipe
from llamune.train.checkpoints import checkpoint_folder
from llamune.train.events import CheckpointWritten, OnEvent, Said, StepDone, Validated
from llamune.train.memory import resident_bytes, return_free
from llamune.train.progress import Progress
from llamune.train.signals import StopRequest
from llamune.train.team import any_of

__all__ = ["Watch"]

CHECKPOINTS_A_RUN = 10
STEPS_OF_SPEED = 20  # the speed shown is that of the last steps


class Watch(TrainerCallback):
    """Turns the loop's hooks into events, lines of `metrics.jsonl`, and decisions.

    Args:
        recipe: the settled recipe.
        tokens: of each step of the run, all processes.
        progress: what is remembered across a resume.
        metrics: where a line a step is added; None on processes that do not write.
        checkpoints: folder of the checkpoints.
        stop: set when the person asks to stop.
        on_event: called with each event.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        tokens: Sequence[int],
        progress: Progress,
        metrics: Path | None,
        checkpoints: Path,
        stop: StopRequest,
        on_event: OnEvent,
    ) -> None:
        self.recipe = recipe
        self.tokens = tokens
        self.progress = progress
        self.metrics = metrics
        self.checkpoints = checkpoints
        self.stop = stop
        self.on_event = on_event
        self.validates = False
        self.stopped_early = False
        self.recent: deque[tuple[float, int]] = deque(maxlen=STEPS_OF_SPEED)
        self.step_began = self.saved_at = time.monotonic()

    @property
    def steps_between_validations(self) -> int:
        """How many steps lie between two passes over the validation records."""
        return math.ceil(self.recipe.steps / max(1, self.recipe.evaluations))

    @property
    def has_no_patience(self) -> bool:
        """Whether too many validation passes have gained nothing."""
        return 0 < self.recipe.patience <= self.progress.passes_without_gain

    def is_over(self, step: int) -> bool:
        """Whether a run that was killed after this step had made its last one."""
        self.stopped_early = self.has_no_patience
        return self.stopped_early or step >= self.recipe.steps

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clocks."""
        self.step_began = self.saved_at = time.monotonic()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the step's clock: validation and saving are not counted as training."""
        self.step_began = time.monotonic()
        return_free()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Count the step, then decide what follows it."""
        step = state.global_step
        seconds = time.monotonic() - self.step_began
        self.recent.append((seconds, self.tokens[step - 1]))
        self.progress.seconds += seconds
        self.progress.tokens += self.tokens[step - 1]
        last = step >= self.recipe.steps
        if self.validates and (step % self.steps_between_validations == 0 or last):
            control.should_evaluate = True
        # clocks and signals differ between processes, what they do must not; saved before the
        # time is up, where one more step would go beyond it
        since_saved = time.monotonic() - self.saved_at
        due = any_of(since_saved + seconds >= 60 * self.recipe.checkpoint_minutes)
        if due or last or step % math.ceil(self.recipe.steps / CHECKPOINTS_A_RUN) == 0:
            control.should_save = True
        if any_of(self.stop.requested):
            control.should_save = control.should_training_stop = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Say what the step did."""
        logs = kwargs["logs"]
        if "loss" in logs:
            self.said_step(state.global_step, logs)
        return control

    def said_step(self, step: int, logs: dict[str, float]) -> None:
        """Send the event of a step and write its line."""
        seconds = sum(part for part, _ in self.recent)
        speed = sum(tokens for _, tokens in self.recent) / seconds if seconds else 0.0
        tokens_left = sum(self.tokens[step:])
        event = StepDone(
            step=step,
            steps=self.recipe.steps,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            gradient_norm=logs.get("grad_norm"),
            tokens=self.tokens[step - 1],
            tokens_per_second=speed,
            memory_bytes=resident_bytes(),
            seconds=self.progress.seconds,
            seconds_left=tokens_left / speed if speed else math.inf,
        )
        self.on_event(event)
        self.write(
            step=step,
            loss=event.loss,
            learning_rate=event.learning_rate,
            gradient_norm=event.gradient_norm,
            tokens=event.tokens,
            tokens_per_second=round(speed, 1),
            memory_bytes=event.memory_bytes,
            seconds=round(event.seconds, 3),
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Note the validation loss; save the best, stop when nothing is gained any more."""
        loss, step = kwargs["metrics"]["eval_loss"], state.global_step
        best = self.progress.saw(loss, step)
        if best:
            control.should_save = True
        elif self.has_no_patience:
            control.should_save = control.should_training_stop = True
            self.stopped_early = True
        self.on_event(Validated(step=step, loss=loss, best=best))
        self.write(step=step, validation_loss=loss, best=best)
        if self.stopped_early:
            self.on_event(
                Said(text=f"validation has not fallen since step {self.progress.best_step}: done")
            )
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Say that a checkpoint is on disk."""
        self.saved_at = time.monotonic()
        step = state.global_step
        self.on_event(
            CheckpointWritten(step=step, folder=checkpoint_folder(self.checkpoints, step))
        )
        return control

    def write(self, **line: Any) -> None:
        """Add a line to `metrics.jsonl`."""
        if self.metrics is not None:
            with self.metrics.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
