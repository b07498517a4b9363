"""`llamune keys`: make, list and revoke the API keys of `llamune serve`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from llamune.cli import _screen

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of `serve`.")

Database = Annotated[
    str | None,
    typer.Option(help="database URL; default $LLAMUNE_DATABASE_URL, else SQLite in the home"),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="whose key it is")],
    requests_per_minute: Annotated[int | None, typer.Option(help="limit, requests")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="limit, tokens")] = None,
    database: Database = None,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from llamune import serve

    key = serve.create_key(
        serve.open_database(database),
        name,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    _screen.note(f"key for {name}; it will not be shown again:")
    _screen.data(key)


@app.command("list")
def list_(
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    database: Database = None,
) -> None:
    """List all keys, the revoked ones too."""
    from llamune import serve

    keys = serve.list_keys(serve.open_database(database))
    if json:
        _screen.data_json([asdict(key) for key in keys])
        return
    from rich.table import Table

    table = Table("name", "key", "made", "requests/min", "tokens/min", "state", box=None)
    for key in keys:
        table.add_row(
            key.name,
            f"{key.hint}…",
            time_text(key.created_ms),
            str(key.requests_per_minute or "no limit"),
            str(key.tokens_per_minute or "no limit"),
            f"revoked {time_text(key.revoked_ms)}" if key.revoked_ms else "in force",
        )
    _screen.show(table)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="name of the key")], database: Database = None
) -> None:
    """Make a key useless from now on; what it used stays counted."""
    from llamune import serve

    serve.revoke_key(serve.open_database(database), name)
    _screen.note(f"key {name} revoked")


def time_text(time_ms: int) -> str:
    """Return a time to the minute, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")
