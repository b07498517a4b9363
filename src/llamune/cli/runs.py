"""`llamune runs`: what has been trained here."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from llamune.runs import Run, RunRecord

app = typer.Typer(no_args_is_help=True)


@app.callback()
def about() -> None:
    """List, show and remove trainings."""


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List runs with what they came from, their loss and their scores."""
    from llamune.runs import Run

    runs, merged = Run.all(), merged_models()
    if as_json:
        rows = [
            run.record.model_dump(mode="json")
            | {"lineage": lineage(run.record, merged[run.reference])}
            for run in runs
        ]
        _screen.data_json(rows)
    elif runs:
        _screen.show(table(runs, merged))
    else:
        _screen.note("no runs yet\n\nhint: llamune tune starter --data FILE --name NAME")
    for run in Run.damaged():
        _screen.warn(f"{run.record_path} is damaged; llamune runs rm '{run.reference}' removes it")


@app.command()
def show(
    reference: Annotated[str, typer.Argument(metavar="RUN", help="name (its latest) or name#n")],
    as_json: Annotated[bool, typer.Option("--json", help="print the record")] = False,
    lang: Annotated[str | None, typer.Option(help="of the report: en or ja")] = None,
) -> None:
    """Show a run's report."""
    from llamune.jobs import report_again
    from llamune.runs import Run

    run = Run.find(reference)
    if as_json:
        _screen.data(run.record.model_dump_json(indent=2))
    else:
        _screen.data(_screen.plain_lines(report_again(run, language=lang)))


@app.command()
def rm(
    references: Annotated[list[str], typer.Argument(metavar="RUN...", help="name#n, or name")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Remove runs: recipe, checkpoints, adapter, report. Published models stay."""
    from llamune.errors import LlamuneError
    from llamune.runs import Run

    runs = [Run.find(reference) for reference in references]
    names = ", ".join(run.reference for run in runs)
    if not _screen.confirm(f"remove {names}?", yes=yes):
        raise LlamuneError("nothing is removed", hint="--yes removes without asking")
    for run in runs:
        run.remove()
        _screen.note(f"removed {run.reference}")


def merged_models() -> Mapping[str, Sequence[str]]:
    """Return the merged models of our library, by the run whose adapter is in them."""
    from llamune.errors import LlamuneError
    from llamune.store import library

    store = library()
    found: dict[str, list[str]] = defaultdict(list)
    for name in store.names():
        with suppress(LlamuneError):  # `llamune models` names the damaged ones
            annotations = store.manifest(name).annotations
            if "llamune.merged.type" in annotations and "llamune.run" in annotations:
                found[annotations["llamune.run"]].append(str(name))
    return found


def table(runs: list[Run], merged: Mapping[str, Sequence[str]]) -> Table:
    """Return the listing of runs."""
    from rich.table import Table

    listing = Table(box=None, pad_edge=False)
    for head in ("run", "from", "state", "loss", "score", "proof"):
        listing.add_column(head)
    for run in runs:
        record = run.record
        scores = [change(score.before, score.after, "{:.0%}") for score in record.scores[:1]]
        listing.add_row(
            run.reference,
            " → ".join(lineage(record, merged[run.reference])),
            state(run, record),
            change(record.loss.validation_before, record.loss.validation, "{:.3f}"),
            "".join(scores),
            str((record.proof or {}).get("verdict", "")),
        )
    return listing


def lineage(record: RunRecord, merged: Sequence[str]) -> list[str]:
    """Return base, adapter gone on from, adapter, merged: as far as it went.

    Args:
        record: of the run.
        merged: models that its adapter was merged into.
    """
    steps = [record.base.reference if record.base else "?"]
    steps += [record.parent] if record.parent else []
    steps += ["adapter"] if "adapter_gguf" in record.files else []
    steps += ["merged"] if "merged" in record.files else []
    return steps + list(merged)


def state(run: Run, record: RunRecord) -> str:
    """Return how far a run is; one that was killed says so."""
    if record.state == "running" and not run.is_alive():
        return "killed"
    if record.state in {"running", "stopped"}:
        return f"{record.state}, {record.steps_done}/{record.steps_planned}"
    return record.state


def change(before: Any, after: Any, form: str) -> str:
    """Return `before → after`, or nothing."""
    if after is None:
        return ""
    return f"{'?' if before is None else form.format(before)} → {form.format(after)}"
