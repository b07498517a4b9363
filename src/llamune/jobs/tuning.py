"""`llamune tune`: from a model's name and a file of examples to a proven, published adapter.

The order of the rooms is that of design, section 5. Everything that can refuse does so before
the run folder is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from llamune.errors import AnswerNo, LlamuneError, UnsupportedError
from llamune.jobs.choosing import gather, with_adapter_settings
from llamune.jobs.events import OnJobEvent, Settled, Stage
from llamune.jobs.finishing import is_published
from llamune.jobs.fitting import fit_hours
from llamune.jobs.following import follow, leading, measured_compute, prepared_again
from llamune.jobs.formats import bytes_text, range_text
from llamune.jobs.full_tuning import bytes_needed, check_full
from llamune.jobs.guard import free_ollama
from llamune.jobs.preparing import (
    Opened,
    Prepared,
    opened,
    opened_for,
    prepare_training,
    read_examples,
)
from llamune.jobs.publishing import checked_target, plan_publication, publish
from llamune.jobs.report import renew_report
from llamune.jobs.running import adapted, carry_out, compute_for
from llamune.jobs.searching import search_learning_rate as search_learning_rate_of
from llamune.jobs.speed import with_measured_steps
from llamune.jobs.telling import describe
from llamune.runs import RecipeError, Run
from llamune.store import ExistsError, ModelName, Sharing, library, take_in
from llamune.train import Said, Team, check_trackers

__all__ = ["resume", "tune"]

LONG_SECONDS = 3600.0  # a longer run asks first


def tune(
    reference: str | None = None,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    name: str | None = None,
    recipe: Path | None = None,
    preset: str | None = None,
    epochs: float | None = None,
    hours: float | None = None,
    search_learning_rate: bool = False,
    replace: bool = False,
    sharing: Sharing = "copy",
    to: str | None = None,
    language: str | None = None,
    confirm: Callable[[str], bool] = lambda _: True,
    on_event: OnJobEvent = lambda _: None,
    **choices: Any,
) -> Run:
    """Train an adapter on a model file, prove it, publish it, and report.

    Args:
        reference: the base: a name, a path, or `starter`.
        data: files of examples.
        name: what the tuned model will be called.
        recipe: a YAML file with any part of a recipe; arguments go before it.
        preset: `classic` for the usual tutorial's settings.
        epochs: passes over the data, in place of `steps`.
        hours: fit steps, rank and length to this time.
        search_learning_rate: try half, once and twice the rate on short runs first.
        replace: whether a model of that name may be replaced; its earlier runs stay.
        sharing: how far to go when the base's bytes can be neither linked nor cloned into our
            library, see `store.publish`.
        to: where else the result goes: `ollama`, `lmstudio`, or a path.
        language: of the report, `en` or `ja`; default the locale's.
        confirm: asked before a run of more than an hour, and before Ollama unloads what it holds
            in memory.
        on_event: called with each stage of the job and each event of the training.
        **choices: fields of the recipe, see `Recipe`.

    Returns:
        The run; its record says whether it is done or was stopped.

    Raises:
        LlamuneError: something is missing, damaged or contradicts; nothing has been trained.
        AnswerNo: it does not fit this machine.
        TrainError: the training broke off; the last checkpoint stays usable.
    """
    team = Team.of_environment()
    if not team.leads:
        return follow(team)
    with leading(team):
        given = {"base": reference, "data": data, "name": name, **choices}
        chosen, passes = gather(given, recipe=recipe, preset=preset, epochs=epochs, hours=hours)
        if to is not None:
            to = checked_target(to, chosen["name"], replace=replace)
        refuse_taken(chosen["name"], replace=replace)
        on_event(Stage(name="reading the model and the data"))
        with opened_with(chosen) as base:
            prepared = ready(base, chosen, passes, hours=hours, confirm=confirm, on_event=on_event)
            if search_learning_rate:
                on_event(Stage(name="searching the learning rate"))
                prepared = search(prepared, team, on_event=on_event)
            with in_library(prepared, sharing=sharing) as prepared:
                run = Run.create(chosen["name"], recipe=prepared.recipe, to=to, replace=replace)
                carry_out(
                    run, prepared, sharing=sharing, language=language, on_event=on_event, team=team
                )
    publish_beyond(run, language=language, on_event=on_event)
    return run


def ready(
    base: Opened,
    chosen: Mapping[str, Any],
    passes: float | None,
    *,
    hours: float | None,
    confirm: Callable[[str], bool],
    on_event: OnJobEvent,
) -> Prepared:
    """Prepare the training, say what it is, and refuse or ask whatever there is to."""
    refuse_tuned(base)
    choices = with_adapter_settings(base, chosen)
    prepared = prepare_for(base, choices, passes, hours=hours)
    refuse_unready(prepared)
    if free_ollama(confirm=confirm, say=lambda text: on_event(Said(text=text))):
        # planned anew with the memory that is free now
        prepared = prepare_for(base, choices, passes, hours=hours)
    refuse_misfit(prepared)
    on_event(Settled(lines=tuple(describe(prepared))))
    confirm_long(prepared, confirm)
    return prepared


def opened_with(chosen: Mapping[str, Any]) -> AbstractContextManager[Opened]:
    """Open the base as the choices say: with their template and their new tokens."""
    return opened(
        chosen["base"],
        template=chosen.get("template"),
        add_tokens=chosen.get("add_tokens", ()),
    )


def publish_beyond(run: Run, *, language: str | None, on_event: OnJobEvent) -> None:
    """Put a finished run where else it was wanted, unless its proof failed.

    Raises:
        LlamuneError: the place refuses; the run is done all the same.
    """
    record = run.record
    if record.state != "done" or record.to in {None, "library"}:
        return
    to = str(record.to)
    on_event(Stage(name=f"publishing to {to}"))
    try:
        publish(
            plan_publication(run.reference, to=to, name=run.name),
            replace=record.replace,
            on_status=lambda text: on_event(Stage(name=text)),
        )
    except LlamuneError as error:
        raise LlamuneError(
            f"{run.reference} is done and in our library, but {to} refuses it: {error.message}",
            hint=f"{error.hint or 'afterwards'}; then: llamune publish {run.reference} --to {to}",
        ) from error
    renew_report(run, language=language)


def resume(
    reference: str | Run,
    *,
    language: str | None = None,
    confirm: Callable[[str], bool] = lambda _: True,
    on_event: OnJobEvent = lambda _: None,
) -> Run:
    """Go on with a run that was stopped or killed, from its newest sound checkpoint.

    Killed before the first one, it begins anew; each step is what it would have been.

    Args:
        reference: the run: `name` (its latest) or `name#n`.
        language: of the report.
        confirm: asked before Ollama unloads what it holds in memory.
        on_event: as for `tune`.

    Raises:
        LlamuneError: it is done, still running, its base or data changed meanwhile, or a later
            run took its name.
    """
    team = Team.of_environment()
    if not team.leads:
        return follow(team)
    with leading(team):
        run = reference if isinstance(reference, Run) else Run.find(reference)
        refuse_ended(run)
        recipe, known = run.recipe, run.record.data
        on_event(Stage(name="reading the model and the data"))
        with opened_for(recipe) as base:
            prepared = prepared_again(base, recipe)
            if known is not None and known.fingerprint != prepared.training.fingerprint:
                raise LlamuneError(
                    f"{run.reference}: the data are not what the run began with",
                    hint="put the files back as they were, or start a new run",
                )
            on_event(Settled(lines=tuple(describe(prepared))))
            free_ollama(confirm=confirm, say=lambda text: on_event(Said(text=text)))
            carry_out(run, prepared, language=language, on_event=on_event, resume=True, team=team)
    publish_beyond(run, language=language, on_event=on_event)
    return run


def refuse_ended(run: Run) -> None:
    """Refuse to go on with a run that is done, still trains, or has lost its name to another.

    Raises:
        LlamuneError: it is, it does, or it has.
    """
    record = run.record
    if record.state == "done":
        raise LlamuneError(f"{run.reference} is done", hint=f"llamune runs show {run.reference}")
    # a record that a full disk left behind may name this very process
    if run.is_alive() and record.process != os.getpid():
        raise LlamuneError(f"{run.reference} is still training (process {record.process})")
    if not (record.replace or is_published(run)):  # it was killed after it was published
        refuse_taken(run.name, replace=False)


@contextmanager
def in_library(prepared: Prepared, *, sharing: Sharing) -> Iterator[Prepared]:
    """Yield the training with its base in a store, where its bytes cannot change any more."""
    model = prepared.opened.model
    if model.store is not None:
        yield prepared
        return
    taken = take_in(model, sharing=sharing)
    recipe = prepared.recipe.model_copy(update={"base": str(taken.name)})
    with opened_for(recipe) as base:
        yield replaced(prepared, opened=base, recipe=recipe)


def prepare_for(
    base: Opened, chosen: Mapping[str, Any], passes: float | None, *, hours: float | None
) -> Prepared:
    """Prepare the training, fitted to some hours where they are given.

    Raises:
        RecipeError: hours and passes are both given.
    """
    examples = read_examples(chosen)

    def prepare(choices: Mapping[str, Any], epochs: float | None) -> Prepared:
        return prepare_training(
            base, choices, epochs=epochs, examples=examples, measure=measured_compute
        )

    if hours is None:
        return with_measured_steps(prepare(chosen, passes), measured_compute)
    if passes is not None:
        raise RecipeError("both hours and epochs are given", hint="give one of them")
    with_measured_steps(prepare(chosen, None), measured_compute)  # kept for the plans to come
    return fit_hours(prepare, chosen, hours=hours)


def confirm_long(prepared: Prepared, confirm: Callable[[str], bool]) -> None:
    """Ask before a run of more than an hour.

    Raises:
        LlamuneError: the answer is no.
    """
    time = prepared.plan.time
    if time.total_high <= LONG_SECONDS:
        return
    takes = range_text(time.total_low, time.total_high)
    if not confirm(f"Training is predicted to take {takes}. Start?"):
        raise LlamuneError(
            f"not started: it would take {takes}",
            hint="--yes starts without asking; --hours N fits the run to N hours",
        )


def search(prepared: Prepared, team: Team, *, on_event: OnJobEvent) -> Prepared:
    """Return the training with the learning rate that did best on short runs.

    Raises:
        UnsupportedError: for several processes, or where no adapter is trained.
    """
    if team.size > 1 or not prepared.recipe.is_adapter:
        what = "several processes" if team.size > 1 else "full training"
        raise UnsupportedError(
            f"--search-lr is for adapters in one process, not for {what}",
            hint="search with a short run of one process, then give --lr",
        )
    compute = compute_for(prepared)
    return search_learning_rate_of(prepared, lambda: adapted(prepared, compute), on_event=on_event)


def refuse_taken(name: str, *, replace: bool) -> None:
    """Refuse a name that our library has already.

    Raises:
        ExistsError: it has.
    """
    full = ModelName.parse(name)
    if not replace and library().find(full) is not None:
        raise ExistsError(
            f"{full} is in the library already",
            hint=f"choose another --name, or --replace it (its earlier runs stay); to keep both: "
            f"llamune cp {full} OTHER, then llamune rm {full}",
        )


def refuse_tuned(base: Opened) -> None:
    """Refuse a base that is served with an adapter: training would not see it.

    Raises:
        UnsupportedError: the base has adapters.
    """
    if base.model.adapters:
        origin = base.model.annotations.get("llamune.base.name", "its base")
        raise UnsupportedError(
            f"{base.model} is a base with an adapter; the adapter would be left out",
            hint=f"tune {origin} with --from-adapter {base.model.ref}, or merge it first",
        )


def refuse_unready(prepared: Prepared) -> None:
    """Refuse what would break the training off, though the recipe itself is sound.

    Raises:
        UnsupportedError: full training cannot be done here.
        TrainError: a tracker is not known or not installed.
    """
    check_trackers(prepared.recipe.report_to)
    if prepared.recipe.method == "full":
        check_full(prepared)


def refuse_misfit(prepared: Prepared) -> None:
    """Refuse a training that will not fit into memory.

    Raises:
        AnswerNo: with the plan's advice.
    """
    plan, needed = prepared.plan, bytes_needed(prepared)
    if needed > plan.machine.budget_bytes:
        raise AnswerNo(
            f"it needs {bytes_text(needed)} and there are "
            f"{bytes_text(plan.machine.budget_bytes)} free",
            hint="what would fit: llamune plan; or lower --max-length, or add --recompute",
        )
