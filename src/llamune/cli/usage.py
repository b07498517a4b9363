"""`llamune usage`: what was used through `llamune serve`, by day, key and model."""

from __future__ import annotations

import csv
import sys
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamune.cli import _screen
from llamune.errors import LlamuneError

if TYPE_CHECKING:
    from llamune.serve import Usage

COLUMNS = ("requests", "prompt_tokens", "completion_tokens", "seconds", "amount", "currency")


def command(
    by: Annotated[str, typer.Option(help="comma list of day, key, model")] = "day,key,model",
    since: Annotated[str | None, typer.Option(help="first day, UTC, as 2026-11-24")] = None,
    until: Annotated[str | None, typer.Option(help="last day, UTC, itself included")] = None,
    prices: Annotated[
        Path | None, typer.Option(help="TOML file; default prices.toml in the home")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV")] = False,
    database: Annotated[str | None, typer.Option(help="database URL, as for `keys`")] = None,
) -> None:
    """Sum up finished requests: tokens read and written, time, and amounts where prices are given.

    Prices are per million tokens, in a TOML file with one table for each model:
    `["tickets"]`, then `prompt = 0.2`, `completion = 0.6`, `currency = "USD"`; `["*"]` stands for
    any other model.
    """
    from llamune import serve

    groups = [name.strip() for name in by.split(",") if name.strip()]
    rows = serve.usage_by(
        serve.open_database(database),
        groups,
        since=day(since, "--since"),
        until=day(until, "--until"),
        prices=serve.read_prices(prices),
    )
    if json:
        _screen.data_json(
            [dict(zip([*groups, *COLUMNS], values(row), strict=True)) for row in rows]
        )
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*groups, *COLUMNS])
        writer.writerows(values(row) for row in rows)
    else:
        show_table(groups, rows)


def values(row: Usage) -> list[str | int | float | None]:
    """Return one row: its group, then `COLUMNS`."""
    amount = None if row.amount is None else str(row.amount.normalize())
    return [
        *row.group,
        row.requests,
        row.prompt_tokens,
        row.completion_tokens,
        round(row.seconds, 3),
        amount,
        row.currency,
    ]


def show_table(groups: list[str], rows: list[Usage]) -> None:
    """Print the sums for a person."""
    from rich.table import Table

    table = Table(*groups, box=None)
    for heading in ("requests", "prompt", "completion", "seconds", "amount"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            *map(_screen.plain, row.group),
            f"{row.requests:,}",
            f"{row.prompt_tokens:,}",
            f"{row.completion_tokens:,}",
            f"{row.seconds:,.1f}",
            "" if row.amount is None else f"{row.amount:.6f} {row.currency}",
        )
    _screen.show(table)


def day(text: str | None, option: str) -> date | None:
    """Read a day.

    Raises:
        LlamuneError: the text is not a day.
    """
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise LlamuneError(f"{option} {text}: not a day such as 2026-11-24") from error
