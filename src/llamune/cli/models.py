"""`llamune models`: what is in the stores of this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from rich.table import Table

    from llamune.store import ListedModel


def command(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the models in our library and in Ollama's stores.

    A name that several stores hold means the one that is listed first.
    """
    from llamune.store import list_models, search_path, unreadable

    places = search_path()
    for store, reason in unreadable(places):
        _screen.warn(f"{store.label} is left out: {reason}")
    models = list_models(places)
    if as_json:
        _screen.data_json([entry(model) for model in models])
        return
    if not models:
        _screen.note("no models yet\n\nhint: llamune pull starter")
        return
    for store in places:
        here = [model for model in models if model.store is store]
        if here:
            _screen.data(_screen.plain(f"{store.label}: {store.root}"))
            _screen.show(table(here))
    for model in models:
        if model.problem:
            _screen.warn(f"{model.name}: {model.problem}")


def entry(model: ListedModel) -> dict[str, Any]:
    """Return a model as the JSON listing has it; absent facts are null."""
    return {
        "name": str(model.name),
        "id": model.id,
        "kind": model.kind,
        "size_bytes": model.size_bytes,
        "file_type": model.file_type,
        "parameters": model.parameters,
        "family": model.family,
        "license": license_label(model),
        "store": model.store.label,
        "store_path": str(model.store.root),
        "modified": datetime.fromtimestamp(model.modified_seconds, UTC).isoformat(),
        "problem": model.problem,
    }


def table(models: list[ListedModel]) -> Table:
    """Return the models of one store as a table."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1))
    for heading in ("NAME", "KIND", "SIZE", "TYPE", "PARAMS", "FAMILY", "LICENCE", "DATE"):
        right = heading in ("SIZE", "PARAMS")
        grid.add_column(heading, justify="right" if right else "left", overflow="fold")
    for model in models:
        day = datetime.fromtimestamp(model.modified_seconds).astimezone().strftime("%Y-%m-%d")
        cells = (
            str(model.name),
            model.kind,
            decimal_size(model.size_bytes),
            model.file_type or "-",
            model.parameters or "-",
            model.family or "-",
            license_label(model) or "-",
            day,
        )
        grid.add_row(*(_screen.plain(cell) for cell in cells))
    return grid


def license_label(model: ListedModel) -> str | None:
    """Return the ids of the licences that the model's texts or its file name, if any."""
    from llamune.license import licences_of

    keys = {"general.license": model.license_key} if model.license_key else {}
    found = licences_of(keys, model.licenses)
    return ", ".join(licence.label for licence in found) or None


def decimal_size(n_bytes: int) -> str:
    """Return a size in decimal units, as Ollama prints it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes} B"
