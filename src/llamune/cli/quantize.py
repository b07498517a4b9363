"""`llamune quantize`: the same model in another precision."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen, quality

if TYPE_CHECKING:
    from llamune.calibrate import Compensated
    from llamune.convert import QuantizePlan, TypeOptions
    from llamune.jobs import Opened

COPY = "COPY"
GENERAL = "general"


def command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="model name, GGUF file or folder")],
    out: Annotated[
        Path | None, typer.Argument(metavar="DST", help="the new GGUF file; not with --dry-run")
    ] = None,
    kind: Annotated[
        str, typer.Option("--type", help="file type, such as q4_k_m; copy joins shards")
    ] = "q4_k_m",
    tensor_types: Annotated[
        list[str] | None,
        typer.Option("--tensor-type", metavar="REGEX=TYPE", help="type of tensors by name"),
    ] = None,
    output_type: Annotated[
        str | None, typer.Option("--output-type", help="type of the output matrix")
    ] = None,
    embedding_type: Annotated[
        str | None, typer.Option("--embedding-type", help="type of the token embedding")
    ] = None,
    pure: Annotated[
        bool, typer.Option("--pure", help="one type for all tensors, no mixture")
    ] = False,
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", help="importance matrix (GGUF or the older format)")
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            help="data to round with error compensation on; `general`: the text that ships"
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="default: all cores")
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="allow rounding weights that were rounded before")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="replace an existing DST")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the exact size and write nothing")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="then measure what was lost, as `quality` does")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Write a model in another precision, each tensor's type chosen as llama.cpp chooses it."""
    from llamune.convert import check_plan, file_type, plan_quantize, quantize, read_importance
    from llamune.errors import LlamuneError
    from llamune.gguf import ModelFile
    from llamune.store import resolve

    if out is None and not dry_run:
        raise LlamuneError("DST is missing", hint="give a path for the new file, or --dry-run")
    wanted = None if kind.upper() == COPY else file_type(kind)
    options = type_options(tensor_types or [], output_type, embedding_type, pure=pure)
    importance = None if imatrix is None else read_importance(imatrix)
    with ExitStack() as stack:
        base = None
        if calibrate:
            from llamune.jobs import opened

            base = stack.enter_context(opened(source))
            model, file = base.model, base.file
        else:
            model = resolve(source)
            opened_file = ModelFile.open(model.paths, mapped=model.store is not None)
            file = stack.enter_context(opened_file)
        for text in model.notes:
            _screen.note(text)
        plan = plan_quantize(file, wanted, options=options, importance=importance)
        for text in fallbacks(plan):
            _screen.note(text)
        if dry_run or out is None:
            show_plan(plan, as_json=as_json)
            return
        check_plan(plan, out, requantize=requantize)
        if plan.requantized and requantize:
            _screen.warn(f"{len(plan.requantized)} tensors were rounded before; errors add up")
        rounding = None
        if base is not None:
            rounding = compensated(base, plan, calibrate or [], out, stack)
        with _screen.progress(f"to {kind.upper()}", total=sum(plan.tensor_bytes.values())) as step:
            errors = quantize(
                plan,
                out,
                round=rounding,
                requantize=requantize,
                replace=replace,
                threads=threads,
                measure=bool(plan.requantized),
                advance=step,
            )
    if plan.requantized:
        worst = max(errors, key=lambda error: error.relative)
        total = sum(error.squared for error in errors), sum(e.squared_before for e in errors)
        relative = (total[0] / total[1]) ** 0.5 if total[1] else 0.0
        _screen.warn(
            f"rounding again added {100 * relative:.2f} % of the weights' size "
            f"(most in {worst.name}: {100 * worst.relative:.2f} %)"
        )
    if as_json:
        _screen.data_json({"path": str(out), **plan_report(plan)})
    else:
        _screen.note(f"{size_text(file.size)} before, {size_text(plan.nbytes)} now")
        _screen.data(str(out))
    if report:
        quality.measure(model, resolve(str(out)), text=None, threads=threads, as_json=as_json)


def compensated(
    base: Opened, plan: QuantizePlan, calibrate: list[Path], out: Path, stack: ExitStack
) -> Compensated:
    """Run the calibration pass; its files lie beside the new one until that is written."""
    from llamune.jobs import rounding_for_plan

    scratch = TemporaryDirectory(prefix=".llamune-rounded-", dir=out.absolute().parent)
    return rounding_for_plan(
        base,
        plan,
        [path for path in calibrate if str(path) != GENERAL],
        folder=Path(stack.enter_context(scratch)),
        on_step=lambda step: _screen.note(f"· {step}"),
    )


def type_options(
    tensor_types: list[str], output: str | None, embedding: str | None, *, pure: bool
) -> TypeOptions:
    """Return what the person decided about types.

    Raises:
        LlamuneError: a type is not known, or a pattern is not a regular expression.
    """
    from llamune.convert import TypeOptions
    from llamune.errors import LlamuneError
    from llamune.gguf import quant_type

    patterns = []
    for text in tensor_types:
        pattern, equals, name = text.rpartition("=")
        if not equals or not pattern:
            raise LlamuneError(
                f"--tensor-type {text!r} is not REGEX=TYPE", hint="such as 'ffn_down=q6_k'"
            )
        try:
            patterns.append((re.compile(pattern), quant_type(name)))
        except re.error as error:
            raise LlamuneError(f"--tensor-type {text!r}: {error}") from error
    return TypeOptions(
        output=None if output is None else quant_type(output),
        embedding=None if embedding is None else quant_type(embedding),
        tensors=tuple(patterns),
        pure=pure,
    )


def fallbacks(plan: QuantizePlan) -> list[str]:
    """Return what to say about rows that do not divide into the blocks that were asked for."""
    if plan.file_type is None:
        return []
    base = plan.file_type.base
    tensors = plan.source.tensors
    uneven = [name for name in plan.changed if tensors[name].n_columns % base.block_size]
    if not uneven:
        return []
    kinds = sorted({plan.types[name].name for name in uneven})
    return [
        f"rows of {len(uneven)} tensors do not divide into {base} blocks of {base.block_size}: "
        f"stored as {', '.join(kinds)}"
    ]


def plan_report(plan: QuantizePlan) -> dict[str, Any]:
    """Return a plan as the JSON output has it."""
    from llamune.convert import section_bytes

    return {
        "type": COPY if plan.file_type is None else plan.file_type.name,
        "bytes": plan.nbytes,
        "sections": section_bytes(plan),
        "tensors": {name: kind.name for name, kind in plan.types.items()},
        "needs_importance": list(plan.needs_importance),
        "requantized": list(plan.requantized),
    }


def show_plan(plan: QuantizePlan, *, as_json: bool) -> None:
    """Print what would be written: sections, types and bytes."""
    from rich.table import Table

    report = plan_report(plan)
    if as_json:
        _screen.data_json(report)
        return
    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("SECTION")
    grid.add_column("BYTES", justify="right")
    grid.add_column("STORED AS", overflow="fold")
    for label, nbytes, kinds in folded(plan, report["sections"]):
        grid.add_row(label, f"{nbytes:,}", ", ".join(kinds))
    grid.add_row("total", f"{plan.nbytes:,}", size_text(plan.nbytes))
    _screen.show(grid)
    if plan.needs_importance:
        _screen.note(f"{len(plan.needs_importance)} tensors need an importance matrix (--imatrix)")


def folded(plan: QuantizePlan, sections: dict[str, int]) -> list[tuple[str, int, list[str]]]:
    """Return sections with bytes and types; blocks of the same types and size together."""
    from llamune.arch import section_of

    kinds: dict[str, set[str]] = {}
    for name, kind in plan.types.items():
        kinds.setdefault(section_of(name), set()).add(kind.name)
    rows: dict[tuple[Any, ...], list[str]] = {}
    for section, nbytes in sections.items():
        stored = tuple(sorted(kinds.get(section, ())))
        alike = (section.startswith("block ") or section, nbytes, stored)
        rows.setdefault(alike, []).append(section)
    result = []
    for (_, nbytes, stored), names in rows.items():
        label = names[0] if len(names) == 1 else f"{len(names)} blocks like {names[0]}"
        result.append((label, nbytes * len(names), list(stored)))
    return result


def size_text(n_bytes: int) -> str:
    """Return a size in the two units that people confuse."""
    return f"{n_bytes / 1e9:.3f} GB ({n_bytes / 2**30:.3f} GiB)"
