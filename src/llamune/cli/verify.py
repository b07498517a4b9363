"""`llamune verify`: hash stored models again and name what is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.store import Fault, ModelName, Store


def command(
    names: Annotated[list[str] | None, typer.Argument(help="model names")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="every model that `llamune models` lists")
    ] = False,
    mend: Annotated[
        bool, typer.Option("--repair", help="mend damaged blobs of our library, or drop them")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Hash every blob of stored models again and name what is damaged or lost.

    With `--repair`, a damaged blob of our library is replaced by a sound one from another store
    of this machine; where there is none it is dropped, so that a pull fetches it anew. Ends
    with exit code 1 when anything is damaged and was not mended.
    """
    from llamune.errors import AnswerNo, LlamuneError
    from llamune.store import bytes_to_verify, repair, search_path, verify_models

    if bool(names) == everything:
        raise LlamuneError("name one or more models, or give --all")
    targets = targets_of(names)
    with _screen.progress("verifying", total=bytes_to_verify(targets)) as advance:
        faults = verify_models(targets, advance=advance)
    mended = [fault for fault in faults if mend and repair(fault, search_path())]
    left = [fault for fault in faults if fault not in mended]
    bad = {(fault.store.root, fault.name) for fault in left}
    sound = [str(name) for store, name in targets if (store.root, name) not in bad]
    if as_json:
        _screen.data_json(
            {
                "verified": sound,
                "faults": [as_entry(fault) for fault in left],
                "repaired": [as_entry(fault) for fault in mended],
            }
        )
    else:
        for fault in faults:
            ending = " (repaired)" if fault in mended else ""
            _screen.data(_screen.plain(f"{fault.name}: {fault.path}: {fault.problem}{ending}"))
        _screen.note(f"{len(targets)} models verified, {len(bad)} with faults")
    if left:
        raise AnswerNo(
            f"{len(bad)} of {len(targets)} models are damaged",
            hint="pull or publish them again"
            if mend
            else "llamune verify --repair mends what can be mended",
        )


def targets_of(names: list[str] | None) -> list[tuple[Store, ModelName]]:
    """Return where the wanted models lie; every model that can be listed without names."""
    from llamune.store import find_stored, search_path, unreadable

    places = search_path()
    if names:
        return [find_stored(name, stores=places) for name in names]
    closed = unreadable(places)
    for store, reason in closed:
        _screen.warn(f"{store.label} is left out: {reason}")
    shut = {store.root for store, _ in closed}
    return [(store, name) for store in places if store.root not in shut for name in store.names()]


def as_entry(fault: Fault) -> dict[str, str]:
    """Return a fault as the JSON output has it."""
    return {
        "name": str(fault.name),
        "store": fault.store.label,
        "path": str(fault.path),
        "problem": fault.problem,
    }
