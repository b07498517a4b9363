"""Several processes that train together: the first leads, the others follow it.

The leader reads what was asked, refuses, asks and writes; a follower hears what to train, prepares
the same data, shares each step, and ends with the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llamune.arch import Family
from llamune.errors import LlamuneError
from llamune.jobs.preparing import Opened, Prepared, opened_for, prepare_training
from llamune.jobs.running import Assignment, trained
from llamune.runs import Recipe, Run
from llamune.train import Team, TrainError

if TYPE_CHECKING:
    from llamune.nn import Compute

__all__ = ["follow", "leading", "leads", "measured_compute", "prepared_again"]


def measured_compute(family: Family) -> Compute:
    """Return what this machine computes in, and how fast, by a short trial."""
    from llamune.nn import choose_compute

    return choose_compute(family)


def prepared_again(base: Opened, recipe: Recipe) -> Prepared:
    """Prepare a training whose recipe is settled already."""
    chosen = {field: getattr(recipe, field) for field in Recipe.model_fields}
    return prepare_training(base, chosen, measure=measured_compute)


@contextmanager
def leading(team: Team) -> Iterator[None]:
    """Tell the other processes when this one gives up before the training."""
    try:
        yield
    except BaseException as error:
        if not team.told:
            team.tell(error.message if isinstance(error, LlamuneError) else type(error).__name__)
        raise


def leads() -> bool:
    """Whether this process leads: it is alone, or the first of those that torchrun started."""
    return Team.of_environment().leads


def follow(team: Team | None = None) -> Run:
    """Train what the leading process says, in one of the processes beside it.

    Everything that leads up to the training and follows it is the leader's.

    Args:
        team: the processes that train together; default as torchrun says.

    Raises:
        TrainError: the leading process gave up, or its files are not the same here.
    """
    team = team or Team.of_environment()
    assignment = team.hear()
    if not isinstance(assignment, Assignment):
        raise TrainError(f"process {team.rank}: the leading process gave up: {assignment}")
    run = Run(assignment.folder, name=assignment.name, number=assignment.number)
    if not run.recipe_path.is_file():
        raise TrainError(
            f"process {team.rank}: {run.folder} is not here",
            hint="all machines need the same LLAMUNE_HOME, on storage that they share",
        )
    with opened_for(run.recipe) as base:
        prepared = prepared_again(base, run.recipe)
        if prepared.training.fingerprint != assignment.fingerprint:
            raise TrainError(f"process {team.rank}: the data or the base are not the same here")
        trained(
            run,
            prepared,
            assignment.compute,
            team=team,
            on_event=lambda _: None,
            resume=assignment.resume,
        )
    return run
