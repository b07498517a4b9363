"""Training as a person watches it: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from llamune.cli import _screen

if TYPE_CHECKING:
    from rich.progress import Progress

    from llamune.jobs import JobEvent
    from llamune.train import StepDone

__all__ = ["TrainingView"]

LINES_A_RUN = 20  # where nobody watches


class TrainingView:
    """Called with every event of a training job; shows it on stderr."""

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.task: Any = None
        self.validation = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, event: JobEvent) -> None:
        """Show an event."""
        from llamune import jobs, train

        match event:
            case jobs.Stage() | jobs.Settled():
                self.close()
                self.say_all(event)
            case train.TrainingStarted(steps=steps, steps_done=done):
                self.say_all(event)
                self.open(steps, done)
            case train.StepDone():
                self.step(event)
            case train.Validated(loss=loss):
                self.validation = f" · validation {loss:.3f}"
                if self.bar is None:
                    self.say_all(event)
            case train.CheckpointWritten() | train.AdapterWritten():
                pass  # the run's log has them
            case _:
                self.say_all(event)

    def say_all(self, event: JobEvent) -> None:
        """Print what an event says."""
        from llamune.jobs import lines_of

        for line in lines_of(event):
            self.say(line)

    def ask(self, question: str, *, yes: bool) -> bool:
        """Ask the person, with the live line out of the way."""
        self.close()
        return _screen.confirm(question, yes=yes)

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        if self.bar is not None:
            self.bar.console.print(_screen.plain(text), markup=False, highlight=False)
        else:
            _screen.note(text)

    def open(self, steps: int, done: int) -> None:
        """Begin the live line on a terminal."""
        if not _screen.is_terminal():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.bar.start()
        self.task = self.bar.add_task("", total=steps, completed=done)

    def step(self, event: StepDone) -> None:
        """Show the figures of a step."""
        from llamune.jobs import seconds_text

        text = (
            f"loss {event.loss:.3f}{self.validation} · {event.tokens_per_second:,.0f} tokens/s · "
            f"{event.memory_bytes / 1e9:.2f} GB · {seconds_text(event.seconds_left)} left"
        )
        if self.bar is not None:
            self.bar.update(self.task, completed=event.step, description=text)
        elif event.step in {1, event.steps} or event.step % max(1, event.steps // LINES_A_RUN) == 0:
            _screen.note(f"  step {event.step:,}/{event.steps:,} · {text}")

    def close(self) -> None:
        """End the live line."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
