"""`llamune verify`: hash stored models again and name what is damaged."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    names: Annotated[list[str] | None, typer.Argument(help="model names")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="every model that `llamune models` lists")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Hash every blob of stored models again and name what is damaged or lost.

    Ends with exit code 1 when something is.
    """
    from llamune.errors import AnswerNo, LlamuneError
    from llamune.store import (
        bytes_to_verify,
        find_stored,
        search_path,
        unreadable,
        verify_models,
    )

    if bool(names) == everything:
        raise LlamuneError("name one or more models, or give --all")
    places = search_path()
    if everything:
        closed = unreadable(places)
        for store, reason in closed:
            _screen.warn(f"{store.label} is left out: {reason}")
        shut = {store.root for store, _ in closed}
        targets = [
            (store, name) for store in places if store.root not in shut for name in store.names()
        ]
    else:
        targets = [find_stored(name, stores=places) for name in names or []]
    with _screen.progress("verifying", total=bytes_to_verify(targets)) as advance:
        faults = verify_models(targets, advance=advance)
    bad = {fault.name for fault in faults}
    if as_json:
        _screen.data_json(
            {
                "verified": [str(name) for _, name in targets if name not in bad],
                "faults": [
                    {"name": str(f.name), "path": str(f.path), "problem": f.problem} for f in faults
                ],
            }
        )
    else:
        for fault in faults:
            _screen.data(_screen.plain(f"{fault.name}: {fault.path}: {fault.problem}"))
        _screen.note(f"{len(targets)} models verified, {len(bad)} with faults")
    if faults:
        raise AnswerNo(
            f"{len(bad)} of {len(targets)} models are damaged", hint="pull or publish them again"
        )
