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
from typing import TYPE_CHECKING, Any

from llamune.errors import AnswerNo, LlamuneError, UnsupportedError
from llamune.jobs.adapters import adapter_named, settings_of_adapter
from llamune.jobs.events import OnJobEvent, Settled, Stage
from llamune.jobs.fitting import fit_hours
from llamune.jobs.following import follow, leading, measured_compute, prepared_again
from llamune.jobs.formats import bytes_text, range_text
from llamune.jobs.full_tuning import check_full
from llamune.jobs.guard import free_ollama
from llamune.jobs.preparing import Opened, Prepared, opened, opened_for, prepare_training
from llamune.jobs.publishing import plan_publication, publish
from llamune.jobs.running import adapted, carry_out, compute_for
from llamune.jobs.searching import search_learning_rate as search_learning_rate_of
from llamune.jobs.speed import with_measured_steps
from llamune.jobs.telling import describe
from llamune.runs import (
    CLASSIC,
    CLASSIC_EPOCHS,
    RecipeError,
    Run,
    check_choices,
    read_choices,
)
from llamune.store import ExistsError, ModelName, Sharing, library, take_in
from llamune.train import Said, Team, check_trackers

if TYPE_CHECKING:
    pass

__all__ = ["PRESETS", "resume", "tune"]

PRESETS: Mapping[str, tuple[Mapping[str, Any], float]] = {"classic": (CLASSIC, CLASSIC_EPOCHS)}
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
        confirm: asked before a run of more than an hour, and before Ollama unloads the base.
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
        chosen, passes = gather(given, recipe=recipe, preset=preset, epochs=epochs)
        refuse_taken(chosen["name"], replace=replace)
        on_event(Stage(name="reading the model and the data"))
        with opened_with(chosen) as base:
            refuse_tuned(base)
            chosen = with_adapter_settings(base, chosen)
            prepared = prepare_for(base, chosen, passes, hours=hours)
            refuse_misfit(prepared)
            refuse_unready(prepared)
            on_event(Settled(lines=tuple(describe(prepared))))
            confirm_long(prepared, confirm)
            free_ollama(base.model, confirm=confirm, say=lambda text: on_event(Said(text=text)))
            if search_learning_rate:
                on_event(Stage(name="searching the learning rate"))
                prepared = search(prepared, team, on_event=on_event)
            with in_library(prepared, sharing=sharing) as prepared:
                run = Run.create(chosen["name"], recipe=prepared.recipe)
                carry_out(
                    run,
                    prepared,
                    replace_name=replace,
                    sharing=sharing,
                    language=language,
                    on_event=on_event,
                    team=team,
                )
    if to is not None:
        publish_beyond(run, to, replace=replace, on_event=on_event)
    return run


def opened_with(chosen: Mapping[str, Any]) -> AbstractContextManager[Opened]:
    """Open the base as the choices say: with their template and their new tokens."""
    return opened(
        chosen["base"],
        template=chosen.get("template"),
        add_tokens=chosen.get("add_tokens", ()),
    )


def publish_beyond(run: Run, to: str, *, replace: bool, on_event: OnJobEvent) -> None:
    """Put a finished run where another program finds it, unless its proof failed."""
    record = run.record
    if record.state != "done":
        return
    on_event(Stage(name=f"publishing to {to}"))
    publish(
        plan_publication(run.reference, to=to, name=run.name),
        replace=replace,
        on_status=lambda text: on_event(Stage(name=text)),
    )


def resume(
    reference: str | Run,
    *,
    language: str | None = None,
    on_event: OnJobEvent = lambda _: None,
) -> Run:
    """Go on with a run that was stopped or killed, from its newest sound checkpoint.

    Args:
        reference: the run: `name` (its latest) or `name#n`.
        language: of the report.
        on_event: as for `tune`.

    Raises:
        LlamuneError: it is done, still running, or its base or data changed meanwhile.
        CheckpointError: it was stopped before its first checkpoint.
    """
    team = Team.of_environment()
    if not team.leads:
        return follow(team)
    with leading(team):
        run = reference if isinstance(reference, Run) else Run.find(reference)
        record = run.record
        if record.state == "done":
            hint = f"llamune runs show {run.reference}"
            raise LlamuneError(f"{run.reference} is done", hint=hint)
        # a record that a full disk left behind may name this very process
        if run.is_alive() and record.process != os.getpid():
            raise LlamuneError(f"{run.reference} is still training (process {record.process})")
        recipe = run.recipe
        on_event(Stage(name="reading the model and the data"))
        with opened_for(recipe) as base:
            prepared = prepared_again(base, recipe)
            known = record.data
            if known is not None and known.fingerprint != prepared.training.fingerprint:
                raise LlamuneError(
                    f"{run.reference}: the data are not what the run began with",
                    hint="put the files back as they were, or start a new run",
                )
            on_event(Settled(lines=tuple(describe(prepared))))
            return carry_out(
                run,
                prepared,
                replace_name=True,
                language=language,
                on_event=on_event,
                resume=True,
                team=team,
            )


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

    def prepare(choices: Mapping[str, Any], epochs: float | None) -> Prepared:
        return prepare_training(base, choices, epochs=epochs, measure=measured_compute)

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
    if time.high <= LONG_SECONDS:
        return
    takes = range_text(time.low, time.high)
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


def gather(
    given: Mapping[str, Any], *, recipe: Path | None, preset: str | None, epochs: float | None
) -> tuple[dict[str, Any], float | None]:
    """Bring options, recipe file and preset together; the first goes before the next.

    Returns:
        The chosen fields, and passes over the data where no steps were chosen.

    Raises:
        RecipeError: an unknown key or preset, or base, data or name is missing.
    """
    if preset is not None and preset not in PRESETS:
        raise RecipeError(f"no preset is called {preset!r}", hint=f"presets: {', '.join(PRESETS)}")
    options = {key: value for key, value in given.items() if value is not None}
    if "data" in options and not isinstance(options["data"], str | Path):
        options["data"] = list(options["data"])
    chosen = check_choices(options, where="options")
    if recipe is not None:
        chosen = {**read_choices(recipe), **chosen}
    if preset is not None:
        settings, preset_epochs = PRESETS[preset]
        chosen = {**settings, **chosen}
        if "steps" not in chosen:
            epochs = epochs or preset_epochs
    if missing := [key for key in ("base", "data", "name") if key not in chosen]:
        examples = {"base": "REF", "data": "--data FILE", "name": "--name NAME"}
        raise RecipeError(
            f"{' and '.join(missing)} must be given",
            hint=" ".join(examples[key] for key in missing),
        )
    return chosen, epochs


def refuse_taken(name: str, *, replace: bool) -> None:
    """Refuse a name that our library has already.

    Raises:
        ExistsError: it has.
    """
    full = ModelName.parse(name)
    if not replace and library().find(full) is not None:
        raise ExistsError(
            f"{full} is in the library already",
            hint="choose another --name, or --replace it (its earlier runs stay)",
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


def with_adapter_settings(base: Opened, chosen: dict[str, Any]) -> dict[str, Any]:
    """Add what an adapter to go on from fixes.

    Raises:
        RecipeError: something else was chosen.
    """
    if (origin := chosen.get("from_adapter")) is None:
        return chosen
    if chosen.get("add_tokens"):
        raise UnsupportedError(
            f"new tokens with an adapter to go on from: {origin} was trained without them",
            hint="merge it first (llamune merge), then tune the merged model with --add-token",
        )
    fixed = settings_of_adapter(adapter_named(origin, base), base.family)
    for key, value in fixed.items():
        if key in chosen and chosen[key] != value:
            raise RecipeError(
                f"{origin} has {key} {value}, and {chosen[key]} was chosen",
                hint=f"leave {key} out: an adapter goes on as it is",
            )
    return {**chosen, **fixed}


def refuse_misfit(prepared: Prepared) -> None:
    """Refuse a training that will not fit into memory.

    Raises:
        AnswerNo: with the plan's advice.
    """
    plan = prepared.plan
    if not plan.fits:
        raise AnswerNo(
            f"it needs {bytes_text(plan.memory.total_bytes)} and there are "
            f"{bytes_text(plan.machine.budget_bytes)} free",
            hint="what would fit: llamune plan; or lower --max-length, or add --recompute",
        )
