"""`llamune data`: check, clean, split, convert and show training data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.data import Finding, Lengths, Report
    from llamune.text import ChatTemplate, Tokenizer

app = typer.Typer(help="Check, clean, split, convert and show training data.", no_args_is_help=True)

Files = Annotated[
    list[str],
    typer.Argument(help="files or folders of examples; FILE=2 counts twice", metavar="FILE"),
]
ModelOption = Annotated[
    str, typer.Option("--model", help="model whose tokenizer and chat template count")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Out = Annotated[Path, typer.Option("--out", help="new file; its ending says the kind")]
Replace = Annotated[bool, typer.Option("--replace", help="replace the new file if it is there")]

BAR_CELLS = 32


@app.command()
def check(
    files: Files,
    model: ModelOption = "",
    max_length: Annotated[
        int, typer.Option(help="tokens a record may have; default the model's context", min=0)
    ] = 0,
    held_out: Annotated[
        list[str] | None,
        typer.Option("--held-out", help="validation or test file that the data must not overlap"),
    ] = None,
    purpose: Annotated[
        str, typer.Option(help="what the data is for: task, domain or language")
    ] = "",
    html: Annotated[Path | None, typer.Option("--html", help="also write this HTML page")] = None,
    lang: Annotated[str | None, typer.Option(help="language of the HTML page: en or ja")] = None,
    as_json: Json = False,
) -> int:
    """Check training data like a reviewer; exit code 1 when it found errors."""
    from llamune.data import check as check_data
    from llamune.data import data_files, open_reader, page
    from llamune.files import write_text

    n_bytes = open_reader(data_files(files)).n_bytes
    with opened(model) as reading, _screen.progress("checking", total=n_bytes) as advance:
        report = check_data(
            data_files(files),
            tokenizer=reading.tokenizer,
            template=reading.template,
            max_length=max_length or None,
            context_length=reading.context_length,
            held_out=data_files(held_out or []),
            purpose=purpose,
            model=model,
            advance=advance,
        )
    if html is not None:
        write_text(html, page(report, language=lang), replace=True)
        _screen.note(f"wrote {html}")
    if as_json:
        _screen.data_json(report.as_json())
    else:
        show_report(report)
    return 1 if report.n_errors else 0


@app.command()
def clean(
    files: Files,
    out: Out,
    drop: Annotated[
        str, typer.Option(help="kinds of finding to leave out, e.g. duplicate,empty_answer")
    ] = "",
    fix: Annotated[
        str,
        typer.Option(
            help="unicode, whitespace, control_character, html, personal_data, control_token "
            "or system, with commas between"
        ),
    ] = "",
    held_out: Annotated[
        list[str] | None, typer.Option("--held-out", help="files for `--drop overlap`")
    ] = None,
    model: ModelOption = "",
    max_length: Annotated[int, typer.Option(help="tokens for `--drop too_long`", min=0)] = 0,
    log: Annotated[
        Path | None, typer.Option(help="what changed and why; default OUT.log.jsonl")
    ] = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Write a cleaned copy and a log of every record changed or dropped; the input stays."""
    from llamune.data import Inspector, data_files
    from llamune.data import clean as clean_data

    with opened(model) as reading:
        inspector = Inspector.of(
            reading.tokenizer,
            reading.template,
            max_length=max_length or None,
            context_length=reading.context_length,
        )
        result = clean_data(
            data_files(files),
            out,
            drop=names(drop),
            fix=names(fix),
            held_out=data_files(held_out or []),
            inspector=inspector,
            log=log,
            replace_out=replace,
        )
    if as_json:
        _screen.data_json(
            {
                "out": str(out),
                "read": result.n_read,
                "written": result.n_written,
                "dropped": dict(result.dropped),
                "fixed": dict(result.fixed),
            }
        )
        return
    for name, count in result.fixed.most_common():
        _screen.note(f"fixed {name}: {count:,}")
    for name, count in result.dropped.most_common():
        _screen.note(f"dropped {name}: {count:,}")
    _screen.note(f"{result.n_written:,} of {result.n_read:,} records written")
    _screen.data(str(out))


@app.command()
def split(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="folder for train.jsonl and valid.jsonl")],
    validation: Annotated[float, typer.Option(help="share set aside for validation")] = 0.1,
    test: Annotated[float, typer.Option(help="share set aside for a test file as well")] = 0.0,
    seed: Annotated[int, typer.Option(help="decides which records")] = 0,
) -> None:
    """Part data into training, validation and test; records that are alike stay together."""
    from llamune.data import data_files, read_records, split_files

    read = read_records(data_files(files))
    for problem in read.problems:
        _screen.warn(f"left out: {problem}")
    for path, count in split_files(
        read.records, out, validation=validation, test=test, seed=seed
    ).items():
        _screen.note(f"{count:,} records")
        _screen.data(str(path))


@app.command()
def convert(
    files: Files,
    out: Out,
    to: Annotated[
        str, typer.Option(help="alpaca, openai, sharegpt, completion, preference or text")
    ] = "openai",
    chosen: Annotated[
        bool, typer.Option("--chosen", help="take the better answer of preference pairs")
    ] = False,
    replace: Replace = False,
) -> None:
    """Write data in another format; a record that the format cannot hold stops it."""
    from llamune.data import convert as convert_data
    from llamune.data import data_files

    count = convert_data(data_files(files), out, to=to, chosen=chosen, replace=replace)
    _screen.note(f"{count:,} records")
    _screen.data(str(out))


@app.command()
def show(
    file: Annotated[str, typer.Argument(help="file or folder of examples")],
    number: Annotated[int, typer.Argument(help="which record, from 1", min=1)] = 1,
    *,
    model: Annotated[str, typer.Option("--model", help="model to render for")],
    train_on: Annotated[str, typer.Option(help="answers, last or all")] = "answers",
    as_json: Json = False,
) -> None:
    """Print one record as the trainer sees it: trained tokens green, the others grey."""
    from llamune.data import DataError, data_files, nth_record, render

    record = nth_record(data_files([file]), number)
    with opened(model) as reading:
        if reading.tokenizer is None or reading.template is None:
            raise DataError("no model to render for", hint="name one with `--model`")
        ready = render(record, reading.template, reading.tokenizer, train_on=train_on)
        runs = runs_of(ready.ids, ready.trained, reading.tokenizer)
    if as_json:
        _screen.data_json(
            {
                "file": record.source.path,
                "record": record.source.number,
                "ids": ready.ids,
                "trained": ready.trained,
                "runs": [{"text": text, "trained": trained} for text, trained in runs],
            }
        )
        return
    show_runs(runs)
    _screen.note(f"{len(ready.ids)} tokens, {ready.n_trained} trained")


class Reading:
    """What a model gives to count and render with; empty when none was named."""

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        template: ChatTemplate | None = None,
        context_length: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.context_length = context_length


@contextmanager
def opened(ref: str) -> Iterator[Reading]:
    """Open a model for its tokenizer and template; a model without a template is noted."""
    if not ref:
        yield Reading()
        return
    from llamune.gguf import ModelFile
    from llamune.store import resolve
    from llamune.text import TemplateError, template_of, tokenizer_of

    model = resolve(ref)
    with ModelFile.open(model.paths) as file:
        tokenizer = tokenizer_of(file)
        template = None
        try:
            template = template_of(model, file, tokenizer)
        except TemplateError as error:
            _screen.warn(f"{error.message}; lengths are of the bare text")
        key = f"{file.architecture}.context_length"
        context = file.metadata.integer(key) if key in file.metadata else None
        yield Reading(tokenizer, template, context)


def names(text: str) -> list[str]:
    """Return the names of a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def show_report(report: Report) -> None:
    """Print a report as tables."""
    for file in report.files:
        encoding = f", {file['encoding']}" if file["encoding"] else ""
        _screen.data(_screen.plain(f"{file['path']}: {file['kind']}{encoding}"))
    formats = ", ".join(f"{count:,} {name}" for name, count in report.formats.items())
    _screen.data(f"records     {report.n_records:,} ({formats})")
    if report.n_unreadable:
        _screen.data(f"unreadable  {report.n_unreadable:,}")
    known = [f"{count:,} {name or 'too short to tell'}" for name, count in report.languages.items()]
    _screen.data(f"languages   {', '.join(known[:6])}")
    show_lengths(report.lengths)
    if report.purpose:
        from llamune.data import PURPOSES

        low, high = PURPOSES[report.purpose]
        _screen.data(f"purpose     {report.purpose}: {low:,} to {high:,} records are usual")
    _screen.data(
        f"clean share {report.clean_share:.1%} = records without an error or warning / all records"
    )
    for finding in report.findings:
        show_finding(finding)
    if len(report.findings) > 1 and report.fix:
        _screen.data(f"\nfix all: {_screen.plain(report.fix)}")
    if not report.findings:
        _screen.data("\nnothing found")
    for text in report.notes:
        _screen.note(text)


def show_lengths(lengths: Lengths) -> None:
    """Print the histogram of lengths."""
    _screen.data(
        f"{lengths.unit:<11} {lengths.total:,} in all; mean {lengths.mean:,.1f}, median "
        f"{lengths.median:,.0f}, 95 % below {lengths.percentile95:,.0f}, "
        f"longest {lengths.longest:,}"
    )
    if lengths.limit:
        share = lengths.n_beyond / max(1, sum(lengths.counts))
        _screen.data(
            f"            limit {lengths.limit:,}: {lengths.n_beyond:,} records beyond "
            f"({share:.1%})"
        )
    most = max(lengths.counts, default=0) or 1
    for low, high, count in zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False):
        bar = "█" * round(BAR_CELLS * count / most)
        _screen.data(f"  {low:>7,}-{high - 1:<7,} {count:>8,} {bar}".rstrip())


def show_finding(finding: Finding) -> None:
    """Print one finding with its examples and the command that mends it."""
    from llamune.words import catalogue

    words = catalogue("data", "en")
    title = words(f"kind_{finding.kind}")
    _screen.data(f"\n{finding.severity}: {finding.kind}: {finding.count:,} ({title})")
    if finding.summary:
        _screen.data(f"  {_screen.plain(finding.summary)}")
    for example in finding.examples:
        place = f"{example.source} (record {example.source.number})"
        _screen.data(f"  {_screen.plain(f'{place}: {example.detail}')}")
    if finding.fix:
        _screen.data(f"  fix: {_screen.plain(finding.fix)}")


def runs_of(ids: list[int], trained: list[bool], tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """Return the text of each run of trained or masked tokens."""
    from itertools import groupby

    pairs = zip(ids, trained, strict=True)
    return [
        (tokenizer.decode([token for token, _ in run]), kept)
        for kept, run in groupby(pairs, key=lambda pair: pair[1])
    ]


def show_runs(runs: list[tuple[str, bool]]) -> None:
    """Print runs of tokens: green is trained; without colours it stands in ⟦ ⟧."""
    import sys

    from rich.text import Text

    shown = Text()
    for text, trained in runs:
        clean_text = "\n".join(_screen.plain(line) for line in text.split("\n"))
        if sys.stdout.isatty():
            shown.append(clean_text, style="bold green" if trained else "dim")
        else:
            shown.append(f"⟦{clean_text}⟧" if trained else clean_text)
    _screen.show(shown)
