"""`llamune scores`: the scores that were measured of a model."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    model: Annotated[str, typer.Argument(help="model name or GGUF file")],
    as_json: Annotated[bool, typer.Option("--json", help="print the scores as JSON")] = False,
) -> None:
    """List the scores that `llamune tune` and `llamune eval` measured of a model, oldest first."""
    from dataclasses import asdict

    from llamune.evaluate import kept_scores, scores_path
    from llamune.store import resolve

    entries = kept_scores(scores_path(resolve(model)))
    if as_json:
        _screen.data_json([asdict(entry) for entry in entries])
        return
    if not entries:
        _screen.note(f"{model}: no score has been measured yet: llamune eval {model} --data FILE")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("when", "run", "test", "metric", "n"):
        table.add_column(heading, overflow="fold")
    table.add_column("score  [95 %]", no_wrap=True)
    for entry in entries:
        score = entry.score
        interval = f"{score.mean:.3f}  [{score.low:.3f}, {score.high:.3f}]"
        when = datetime.fromisoformat(entry.time).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(when, entry.run or "", score.task, score.metric, str(score.n), interval)
    _screen.show(table)
