"""Run folders: `$LLAMUNE_HOME/runs/<model>/<tag>/<n>`. The folder is the truth."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from llamune.errors import LlamuneError
from llamune.files import write_text
from llamune.runs.recipe import Recipe
from llamune.runs.record import RunRecord
from llamune.store import ModelName, home

__all__ = ["Run", "RunError", "runs_folder"]

NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class RunError(LlamuneError):
    """A run that is not there, or whose folder cannot be read."""


def runs_folder() -> Path:
    """Return the folder that holds all runs."""
    return home() / "runs"


class Run:
    """One training, as its folder says it.

    Attributes:
        folder: where everything of the run lies.
        name: what the tuned model is called, with its tag.
        number: 1 for the first run of this name.
    """

    def __init__(self, folder: Path, *, name: str, number: int) -> None:
        self.folder = folder
        self.name = name
        self.number = number

    def __repr__(self) -> str:
        return f"Run({self.reference!r})"

    @property
    def reference(self) -> str:
        """What a person types to mean this very run: `name#n`."""
        return f"{self.name}#{self.number}"

    @property
    def recipe_path(self) -> Path:
        """The settled recipe."""
        return self.folder / "recipe.yaml"

    @property
    def record_path(self) -> Path:
        """What is known of the run."""
        return self.folder / "record.json"

    @property
    def metrics_path(self) -> Path:
        """One JSON line a step and a validation pass."""
        return self.folder / "metrics.jsonl"

    @property
    def log_path(self) -> Path:
        """What was said while it ran."""
        return self.folder / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints, one subfolder a step."""
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The finished adapter, a PEFT folder."""
        return self.folder / "adapter"

    @property
    def adapter_gguf(self) -> Path:
        """The finished adapter for llama.cpp."""
        return self.folder / "adapter.gguf"

    @property
    def model_gguf(self) -> Path:
        """The finished model as a whole file, where no adapter can express what was trained."""
        return self.folder / "model.gguf"

    @property
    def report_path(self) -> Path:
        """The report for people."""
        return self.folder / "report.md"

    @property
    def recipe(self) -> Recipe:
        """The settled recipe."""
        return Recipe.read(self.recipe_path)

    @property
    def record(self) -> RunRecord:
        """What is known of the run.

        Raises:
            RunError: the record is damaged.
        """
        try:
            return RunRecord.model_validate_json(self.record_path.read_bytes())
        except (ValidationError, OSError) as error:
            raise RunError(f"{self.record_path}: not a run's record") from error

    def update(self, **changes: Any) -> RunRecord:
        """Write the record anew with some fields changed, whole or not at all."""
        record = RunRecord.model_validate({**dict(self.record), **changes})
        write_record(self, record)
        return record

    def is_alive(self) -> bool:
        """Whether a process still trains it, as far as its record can be read."""
        try:
            record = self.record
        except RunError:
            return False
        if record.state != "running" or record.process is None:
            return False
        try:
            process = psutil.Process(record.process)
            return bool(process.create_time() <= record.started.timestamp() + 1)
        except psutil.NoSuchProcess:
            return False

    def remove(self) -> None:
        """Delete the run's folder, and the folders of its name when nothing is left in them.

        Raises:
            RunError: a process still trains it.
        """
        if self.is_alive():
            raise RunError(f"{self.reference}: still training", hint="stop it first (Ctrl-C)")
        shutil.rmtree(self.folder)
        for parent in list(self.folder.parents):
            if parent == runs_folder():
                break
            with contextlib.suppress(OSError):  # another run of this name is still there
                parent.rmdir()

    @classmethod
    def create(
        cls, name: str, *, recipe: Recipe, to: str | None = None, replace: bool = False
    ) -> Run:
        """Make the folder of a new run of this name, with the next number.

        Args:
            name: what the tuned model will be called.
            recipe: the settled recipe.
            to: where the result goes beside our library.
            replace: whether a model of that name may be replaced.
        """
        short = str(ModelName.parse(name))
        parent = folder_of(short)
        parent.mkdir(parents=True, exist_ok=True)
        number = max((run.number for run in runs_of(short)), default=0) + 1
        while True:
            folder = parent / str(number)
            try:
                folder.mkdir()
                break
            except FileExistsError:  # another process took the number
                number += 1
        run = cls(folder, name=short, number=number)
        recipe.write(run.recipe_path)
        record = RunRecord(
            name=short,
            number=number,
            state="planned",
            started=datetime.now(UTC),
            process=os.getpid(),
            steps_planned=recipe.steps,
            to=to,
            replace=replace,
        )
        write_record(run, record)
        return run

    @classmethod
    def find(cls, reference: str) -> Run:
        """Return a run by `name` (its latest) or `name#n`.

        Raises:
            RunError: there is none, with the names that there are.
        """
        text, _, number = reference.partition("#")
        if number and not NUMBER.fullmatch(number):
            raise RunError(f"{reference}: a run is `name` or `name#number`")
        name = str(ModelName.parse(text))
        present = list(runs_of(name))
        wanted = [run for run in present if not number or run.number == int(number)]
        if wanted:
            return max(wanted, key=lambda run: run.number)
        if present:
            numbers = ", ".join(str(run.number) for run in present)
            raise RunError(f"{name} has no run {number}", hint=f"it has: {numbers}")
        names = sorted({run.name for run in cls.all()})
        hint = f"runs: {', '.join(names)}" if names else "there are no runs yet: llamune tune"
        raise RunError(f"no run is called {name}", hint=hint)

    @classmethod
    def all(cls) -> list[Run]:
        """Return every run whose record can be read, oldest first."""
        found = [(started, run) for run in runs_below() if (started := started_at(run))]
        return [run for _, run in sorted(found, key=itemgetter(0))]

    @classmethod
    def damaged(cls) -> list[Run]:
        """Return the runs whose record cannot be read."""
        return [run for run in runs_below() if started_at(run) is None]


def runs_below() -> Iterator[Run]:
    """Yield every run, by name and number."""
    for record in sorted(runs_folder().glob("**/record.json")):
        if (run := run_at(record.parent)) is not None:
            yield run


def started_at(run: Run) -> datetime | None:
    """Return when a run began, None where its record cannot be read."""
    try:
        return run.record.started
    except RunError:
        return None


def folder_of(name: str) -> Path:
    """Return the folder of all runs of a name such as `team/tickets:v2`."""
    model, _, tag = name.rpartition(":")
    return runs_folder().joinpath(*model.split("/"), tag)


def runs_of(name: str) -> Iterator[Run]:
    """Yield the runs of one name, by number."""
    folder = folder_of(name)
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir(), key=lambda path: path.name):
        if NUMBER.fullmatch(entry.name) and (entry / "record.json").is_file():
            yield Run(entry, name=name, number=int(entry.name))


def run_at(folder: Path) -> Run | None:
    """Return the run of a folder, or None if the folder is no run's."""
    parts = folder.relative_to(runs_folder()).parts
    if len(parts) < 3 or not NUMBER.fullmatch(parts[-1]):
        return None
    return Run(folder, name=f"{'/'.join(parts[:-2])}:{parts[-2]}", number=int(parts[-1]))


def write_record(run: Run, record: RunRecord) -> None:
    """Write a record, whole or not at all."""
    write_text(run.record_path, record.model_dump_json(indent=2) + "\n", replace=True)
