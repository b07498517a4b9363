"""`llamune quantize`: the same model in another precision."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamune.cli import _screen, quality
from llamune.cli._quantize_views import (
    COPY,
    fallbacks,
    fit_lines,
    plan_report,
    show_plan,
    size_text,
    warn_of_errors,
)

if TYPE_CHECKING:
    from llamune.calibrate import Compensated
    from llamune.convert import QuantizePlan, TypeOptions
    from llamune.gguf import ModelFile
    from llamune.jobs import Fit, Opened
    from llamune.store import Model

DEFAULT_TYPE = "q4_k_m"
GENERAL = "general"
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", re.IGNORECASE)
POWERS = {"": 0, "k": 1, "m": 2, "g": 3}


def command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="model name, GGUF file or folder")],
    out: Annotated[
        Path | None, typer.Argument(metavar="DST", help="the new GGUF file; not with --dry-run")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="file type, default q4_k_m; copy joins shards")
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="choose each tensor's type for the least predicted loss within a size: 4.5GB",
        ),
    ] = None,
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
    from llamune.errors import LlamuneError
    from llamune.store import resolve

    if out is None and not dry_run:
        raise LlamuneError("DST is missing", hint="give a path for the new file, or --dry-run")
    wishes = Wishes(
        kind=kind,
        budget_bytes=None if fit is None else size_of(fit),
        options=type_options(tensor_types or [], output_type, embedding_type, pure=pure),
        imatrix=imatrix,
        data=tuple(path for path in calibrate or () if str(path) != GENERAL),
        calibrated=bool(calibrate) or fit is not None,
        requantize=requantize,
    )
    with opened_source(source, calibrated=wishes.calibrated) as origin:
        plan, chosen = planned(origin, wishes)
        if dry_run or out is None:
            if origin.base is not None:
                show_cost(origin.base, plan)
            show_plan(plan, chosen, as_json=as_json)
            return
        rounding = write(origin, plan, out, wishes, replace=replace, threads=threads)
    if not as_json:
        _screen.note(f"{size_text(plan.source.size)} before, {size_text(plan.nbytes)} now")
        _screen.data(str(out))
    lost = None
    if report:
        lost = quality.measure(origin.model, resolve(str(out)), text=None, threads=threads)
    if as_json:
        gains = [asdict(gain) for gain in rounding.gains] if rounding else []
        measured = {} if lost is None else {"quality": quality.report(lost)}
        shown = {"path": str(out), **plan_report(plan, chosen), "rounding": gains, **measured}
        _screen.data_json(shown)
    elif lost is not None:
        quality.show(lost)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the person asked for."""

    kind: str | None
    budget_bytes: int | None
    options: TypeOptions
    imatrix: Path | None
    data: Sequence[Path]
    calibrated: bool
    requantize: bool

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            LlamuneError: a size and types are both asked for.
        """
        from llamune.convert import TypeOptions
        from llamune.errors import LlamuneError

        if self.budget_bytes is None:
            return
        if self.kind is not None or self.options != TypeOptions() or self.imatrix is not None:
            raise LlamuneError(
                "--fit chooses the types itself, and rounds with compensation",
                hint="leave --type, --tensor-type, --output-type, --embedding-type, --pure and "
                "--imatrix away",
            )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model to be written anew; `base` is there when its layers will be run."""

    model: Model
    file: ModelFile
    base: Opened | None


@contextmanager
def opened_source(source: str, *, calibrated: bool) -> Iterator[Origin]:
    """Open the model; with its tokenizer and template where text is to be read."""
    from llamune.gguf import ModelFile
    from llamune.store import resolve

    if calibrated:
        from llamune.jobs import opened

        with opened(source) as base:
            yield Origin(model=base.model, file=base.file, base=base)
        return
    model = resolve(source)
    with ModelFile.open(model.paths, mapped=model.store is not None) as file:
        yield Origin(model=model, file=file, base=None)


def planned(origin: Origin, wishes: Wishes) -> tuple[QuantizePlan, Fit | None]:
    """Return what will be written, and how it was chosen where a size was given."""
    from llamune.convert import file_type, plan_quantize, read_importance

    for text in origin.model.notes:
        _screen.note(text)
    if wishes.budget_bytes is not None and origin.base is not None:
        from llamune.jobs import fit_plan

        fit = fit_plan(
            origin.base,
            wishes.budget_bytes,
            wishes.data,
            requantize=wishes.requantize,
            on_step=said,
        )
        for text in fit_lines(fit):
            _screen.note(text)
        return fit.plan, fit
    kind = wishes.kind or DEFAULT_TYPE
    plan = plan_quantize(
        origin.file,
        None if kind.upper() == COPY else file_type(kind),
        options=wishes.options,
        importance=None if wishes.imatrix is None else read_importance(wishes.imatrix),
    )
    for text in fallbacks(plan):
        _screen.note(text)
    return plan, None


def said(step: str) -> None:
    """Show a step of a long job."""
    _screen.note(f"· {step}")


def write(
    origin: Origin,
    plan: QuantizePlan,
    out: Path,
    wishes: Wishes,
    *,
    replace: bool,
    threads: int | None,
) -> Compensated | None:
    """Write the file; return the rounding with error compensation, where there is one."""
    from llamune.convert import check_plan, quantize
    from llamune.files import refuse_existing

    check_plan(plan, out, requantize=wishes.requantize)
    refuse_existing(out, replace=replace)
    if plan.requantized:
        _screen.warn(f"{len(plan.requantized)} tensors were rounded before; errors add up")
    rounding = None
    if origin.base is not None:
        from llamune.jobs import gains_text, rounding_for_plan

        rounding = rounding_for_plan(origin.base, plan, wishes.data, on_step=said)
        for text in gains_text(rounding.gains):
            _screen.note(f"  {text}")
    label = f"to {(wishes.kind or DEFAULT_TYPE).upper()}" if wishes.budget_bytes is None else "fit"
    with _screen.progress(label, total=sum(plan.tensor_bytes.values())) as step:
        errors = quantize(
            plan,
            out,
            round=rounding,
            requantize=wishes.requantize,
            replace=replace,
            threads=threads,
            measure=bool(plan.requantized),
            advance=step,
        )
    if rounding is not None:
        rounding.discard()
    if plan.requantized:
        warn_of_errors(errors)
    return rounding


def show_cost(base: Opened, plan: QuantizePlan) -> None:
    """Say what rounding with compensation would cost here."""
    from llamune.jobs import calibration_cost, cost_text

    said(cost_text(calibration_cost(base, plan)))


def size_of(text: str) -> int:
    """Return the bytes of a file size: GB is decimal, GiB counts in powers of two.

    Raises:
        LlamuneError: it is no size.
    """
    from llamune.errors import LlamuneError

    match = SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise LlamuneError(f"--fit {text!r} is no size", hint="write it as 4.5GB or 4.2GiB")
    unit = match[2].lower().removesuffix("b")
    step = 1024 if unit.endswith("i") else 1000
    return int(float(match[1]) * step ** POWERS[unit.removesuffix("i")])


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
