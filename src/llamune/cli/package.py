"""`llamune package`: the folder to share or sell, and checking one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.package import Kind

VERIFY = "verify"


def command(
    ref: Annotated[str, typer.Argument(help="run or model to package; or the word `verify`")],
    folder: Annotated[
        Path | None, typer.Argument(help="after `verify`: the package to check")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the new folder")] = None,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="the adapter, without the base's weights")
    ] = False,
    merged: Annotated[
        bool, typer.Option("--merged", help="a whole model file, merged first if need be")
    ] = False,
    name: Annotated[str | None, typer.Option("--as", help="what to call it")] = None,
    sell: Annotated[bool, typer.Option("--sell", help="it is to be sold, not only shared")] = False,
    licence: Annotated[
        list[str] | None, typer.Option("--license", help="a licence that the file omits")
    ] = None,
    data_licence: Annotated[
        list[str] | None, typer.Option("--data-license", help="a licence of the training data")
    ] = None,
    licence_text: Annotated[
        list[Path] | None, typer.Option("--license-text", help="file with a full licence text")
    ] = None,
    copyright_line: Annotated[
        str | None, typer.Option("--copyright", help="the base's copyright line, where MIT asks it")
    ] = None,
    notice: Annotated[Path | None, typer.Option(help="the base's NOTICE file")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="name of the training data")] = None,
    language_of_data: Annotated[
        list[str] | None, typer.Option("--language", help="language of the data, e.g. ja")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--sign", help="Ed25519 private key (PEM) to sign with")
    ] = None,
    language: Annotated[str | None, typer.Option("--lang", help="of the card: en or ja")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Make everything that sharing or selling takes, or check it: `llamune package verify DIR`.

    Refuses what the licences forbid, with the clause. Licence texts come with the base, from a
    collection of the standard ones, or from you (`--license-text`); none is made up. Not legal
    advice.
    """
    from llamune.errors import LlamuneError

    if ref == VERIFY and folder is not None:
        verify(folder, as_json=as_json)
        return
    if out is None or folder is not None:
        raise LlamuneError("where should it go?", hint="llamune package REF -o DIR")
    if adapter_only and merged:
        raise LlamuneError("--adapter-only and --merged exclude each other")
    from llamune.jobs import PackageWishes, package

    kind: Kind | None = "adapter" if adapter_only else "merged" if merged else None
    wishes = PackageWishes(
        kind=kind,
        name=name,
        sell=sell,
        licences=tuple(licence or ()),
        data_licences=tuple(data_licence or ()),
        licence_files=tuple(licence_text or ()),
        copyright_line=copyright_line,
        notice_file=notice,
        datasets=tuple(dataset or ()),
        languages=tuple(language_of_data or ()),
        key=key,
        card_language=language,
    )
    contents = package(ref, out, wishes, on_step=lambda step: _screen.note(f"· {step}"))
    if as_json:
        _screen.data_json({"path": str(out), "name": contents.name, "kind": contents.kind})
    else:
        _screen.data(_screen.plain(str(out)))


def verify(folder: Path, *, as_json: bool) -> None:
    """Check a package; exit 1 when anything is wrong.

    Raises:
        AnswerNo: something is.
    """
    from llamune.errors import AnswerNo
    from llamune.package import verify_package

    found = verify_package(folder)
    if as_json:
        _screen.data_json(
            {
                "name": found.name,
                "ok": not found.faults,
                "files": found.n_files,
                "faults": list(found.faults),
                "signer": found.signer,
            }
        )
    else:
        for fault in found.faults:
            _screen.data(_screen.plain(fault))
    if found.faults:
        count = len(found.faults)
        raise AnswerNo(f"{folder}: {count} thing{'s' if count > 1 else ''} wrong")
    if not as_json:
        signed = f", signed by {found.signer}" if found.signer else ", not signed"
        _screen.data(
            _screen.plain(f"{found.name}: {found.n_files} files as they were made{signed}")
        )
