"""`llamune merge`: fold adapters into their base and write one GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.jobs import MergeReport

OWN_TYPES = "own"
Rounding = Literal["nearest", "compensated"]


def command(
    ref: Annotated[
        str, typer.Argument(help="base model; or a tuned model, whose own adapters are merged")
    ],
    adapters: Annotated[
        list[str] | None,
        typer.Argument(help="adapters: names, runs, PEFT folders or GGUF files; @0.5 merges half"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the new GGUF file")] = None,
    name: Annotated[
        str | None, typer.Option(help="publish the merged model under this name in the library")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            help="quant type of the changed tensors, or `own`; default: what is measured to keep "
            "the change",
        ),
    ] = None,
    rounding: Annotated[
        Rounding | None,
        typer.Option(
            "--round", help="how floats become blocks; default: compensated where it can be"
        ),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="data to calibrate on; default: what the run was trained on"),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="held-out examples to measure with; default: what the run held out"),
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="measure loss and KL on held-out examples in llama.cpp")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="merge an adapter that was trained on another base")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="replace a file or a model that exists")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Fold adapters into their base and write one GGUF file.

    Tensors that no adapter changes are copied byte for byte. Rounding back into 4-bit blocks can
    throw away what was learned, so errors are compensated on the run's own training data, and the
    merge is measured at the base's own types and at Q8_0.
    """
    from llamune.jobs import merge

    report = merge(
        ref,
        adapters or (),
        out=out,
        name=name,
        type=kind,
        round=rounding,
        calibrate=calibrate or (),
        data=data or (),
        measure=measure,
        force=force,
        replace_existing=replace,
        on_step=lambda step: _screen.note(f"· {step}"),
    )
    if as_json:
        _screen.data_json(report.as_json())
        return
    show(report)
    for place in (report.path, report.name):
        if place is not None:
            _screen.data(_screen.plain(str(place)))


def show(report: MergeReport) -> None:
    """Say on stderr what every candidate kept, and what was written."""
    if report.held_out is not None:
        losses = report.held_out
        _screen.note(
            f"held-out loss ({report.held_out_source}): base {losses.base:.4f}, "
            f"adapter beside it {losses.adapter:.4f}"
        )
    for one in report.candidates:
        parts = [f"{one.bytes / 1e6:,.1f} MB"]
        if one.kept is not None:
            parts.append(f"{one.kept:.1%} of the weights' change kept")
        if one.held_out is not None and one.kl is not None:
            parts.append(f"held-out loss {one.held_out:.4f}, KL {one.kl:.2e}")
        if one.gain is not None:
            parts.append(f"{one.gain:.0%} of the gain kept")
        _screen.note(f"  {type_words(one.type)}, {one.round}: {', '.join(parts)}")
    if report.type != report.recommended:
        _screen.warn(f"{type_words(report.recommended)} would keep more of what was learned")
    _screen.note(
        f"wrote {report.bytes:,} bytes at {type_words(report.type)}, {report.round}: "
        f"{report.tensors} tensors changed, {report.copied} copied byte for byte"
    )


def type_words(kind: str) -> str:
    """Return a candidate's type in words."""
    return "the base's own types" if kind == OWN_TYPES else kind
