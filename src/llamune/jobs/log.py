"""What is said of a job, in lines; and a run's `log.txt`, which keeps them with the time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from llamune.errors import LlamuneError
from llamune.jobs.events import JobEvent, OnJobEvent, Refitted, Settled, Stage
from llamune.jobs.formats import range_text
from llamune.runs import Run
from llamune.train import (
    AdapterWritten,
    CheckpointWritten,
    Said,
    Sampled,
    StepDone,
    TrainingStarted,
    Validated,
)

__all__ = ["lines_of", "logged"]


def lines_of(event: JobEvent) -> tuple[str, ...]:
    """Return what an event says to a person; nothing for a step, of which there are many."""
    lines: tuple[str, ...] = ()
    match event:
        case Stage(name=name):
            return (f"· {name}",)
        case Settled(lines=lines):
            pass
        case Refitted(low=low, high=high, after_steps=n):
            lines = (f"time now: {range_text(low, high)} (measured over {n} steps)",)
        case TrainingStarted(steps_done=done):
            lines = (f"going on after step {done:,}",) if done else ()
        case Validated(step=step, loss=loss, best=best):
            lines = (f"step {step:,}: validation loss {loss:.4f}{' (best)' * best}",)
        case Sampled(step=step, text=text):
            lines = (f"step {step:,} answers: {text}",)
        case Said(text=text):
            lines = (text,)
        case CheckpointWritten(step=step):
            lines = (f"checkpoint of step {step:,}",)
        case AdapterWritten(step=step):
            lines = (f"kept: the weights of step {step:,}",)
        case StepDone():
            pass
    return tuple(f"  {line}" for line in lines)


@contextmanager
def logged(run: Run, on_event: OnJobEvent, *, head: Iterable[str]) -> Iterator[OnJobEvent]:
    """Yield what passes events on and adds what they say to the run's log, and how it ended.

    Args:
        run: its folder.
        on_event: gets every event.
        head: lines that come first: what is about to happen.
    """

    def see(event: JobEvent) -> None:
        on_event(event)
        write(run, lines_of(event))

    try:
        write(run, head)
        yield see
    except BaseException as error:
        text = error.message if isinstance(error, LlamuneError) else repr(error)
        with suppress(OSError):  # a full disk must not hide why
            write(run, [f"ended: {text}"])
        raise
    record = run.record
    write(run, [f"ended: {record.state}{f', {record.fault}' if record.fault else ''}"])


def write(run: Run, lines: Iterable[str]) -> None:
    """Add lines to a run's log."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    text = "".join(f"{now} {' '.join(line.split())}\n" for line in lines)
    if text:
        with run.log_path.open("a", encoding="utf-8") as out:
            out.write(text)
