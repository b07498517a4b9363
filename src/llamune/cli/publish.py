"""`llamune publish`: put a model or a finished run where other programs find it."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    source: Annotated[str, typer.Argument(help="a model's name or file, or a run: NAME#N")],
    to: Annotated[str, typer.Option(help="library, ollama, lmstudio, or a path")],
    name: Annotated[
        str | None, typer.Option("--as", help="name there; default the model's own")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="replace what has that name there")
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            help="quant type of a merged file's changed tensors, or own; default own where that "
            "keeps the change, else Q8_0",
        ),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="copy into the library where bytes cannot be shared")
    ] = False,
    no_copy: Annotated[
        bool, typer.Option("--no-copy", help="refer to the base where bytes cannot be shared")
    ] = False,
) -> None:
    """Put a model or a finished run where other programs find it.

    `library` keeps an adapter beside its base. `ollama` goes through its server where one
    answers, else into its store. A place that takes plain files only gets a merged one; to have
    its quality measured, merge it first: llamune merge.
    """
    from llamune.cli._taking import agreed_sharing
    from llamune.jobs.publishing import plan_publication, publish
    from llamune.store import Sharing

    plan = plan_publication(source, to=to, name=name)
    for text in plan.model.notes:
        _screen.note(text)
    sharing: Sharing = "copy"
    if to == "library":
        sharing = agreed_sharing(plan.model, copy=copy, no_copy=no_copy)
    if plan.merging:
        _screen.note(f"{to} takes plain files: the adapter is merged into one")
    with _screen.progress(f"publishing {plan.name}", total=plan.model.size) as advance:
        placed = publish(
            plan,
            replace=replace,
            type=kind,
            sharing=sharing,
            advance=advance,
            on_status=_screen.note,
        )
    _screen.note(f"{placed.how}; the file is kept as {placed.digest or '(digest not told)'}")
    _screen.data(placed.where)
