"""`llamune eval`: is it better? Scores with error bars, a baseline, and a gate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen
from llamune.errors import AnswerNo, LlamuneError

if TYPE_CHECKING:
    from llamune.evaluate import Evaluation, Forgetting, Judge, Score, Training
    from llamune.store import Model

SHOWN = ("wrong", "all")
MOST_NAMED = 5
ADVICE = {
    "done": "nothing more to do",
    "keep more": "it forgot what it knew: fewer steps, a smaller rate, or other examples too",
    "more items": "add test items, or take the cheaper model: no difference is seen",
    "more data": "add training examples of the kind that fails (--show wrong)",
    "other rank": "close: try another rank or learning rate",
    "full fine-tuning": "the adapter has learned what it can: more data, or full fine-tuning",
    "stop": "stop here: the base is better; look at the data before training again",
}


def command(
    model: Annotated[str, typer.Argument(help="model name or GGUF file")],
    data: Annotated[list[Path], typer.Option(help="test file; may be repeated")],
    metric: Annotated[
        str | None,
        typer.Option(help="how to score, or a Python file with score(answer, item)"),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="model to compare with")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="exit code 1 where the score is below it")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="hold the interval's worse end against --threshold")
    ] = False,
    forgetting: Annotated[
        bool,
        typer.Option("--forgetting", help="put a general suite to the model and its base too"),
    ] = False,
    judge: Annotated[
        str | None, typer.Option(help="model that marks answers, for --metric judge")
    ] = None,
    rubric: Annotated[Path | None, typer.Option(help="what the judge's marks mean")] = None,
    show: Annotated[str | None, typer.Option(help="print items: wrong or all")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page to browse the items")] = None,
    lang: Annotated[str | None, typer.Option(help="language of the page: en or ja")] = None,
    engine: Annotated[
        str | None, typer.Option(help="ollama, or the URL of an OpenAI-compatible endpoint")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="tokens of an answer, at most")] = 256,
    parallel: Annotated[int, typer.Option(min=1, help="questions asked at once")] = 4,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="ask again what was asked before")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Score a model on questions with known answers, and say how sure the score is.

    Answers are kept: a stopped run goes on where it stopped. The metric is chosen by the data
    unless --metric names one: exact, contains, choice, chrf, rouge-l, json, schema, regex,
    number, perplexity, bits-per-byte, judge.
    """
    if show is not None and show not in SHOWN:
        raise LlamuneError(f"--show {show}: say wrong or all")
    if html is not None:
        refuse_unwritable(html, lang)
    if forgetting and engine and baseline is None:
        raise LlamuneError("--forgetting compares two models", hint="name the other: --baseline")
    found, lost = measure(
        model,
        data,
        metric=metric,
        baseline=baseline,
        forgetting=forgetting,
        judge=judge,
        rubric=rubric,
        engine=engine,
        settings={
            "engine": engine,
            "max_tokens": max_tokens,
            "n_parallel": parallel,
            "n_threads": threads,
            "fresh": fresh,
        },
    )
    if html is not None:
        write_page(html, found, lost, lang)
    if as_json:
        from dataclasses import asdict

        extra: dict[str, Any] = {"forgetting": None if lost is None else asdict(lost)}
        _screen.data_json(found.as_dict() | extra | {"advice": found.advice(threshold, lost)})
    else:
        print_evaluation(found, lost)
        if show is not None:
            print_items(found, only_wrong=show == "wrong")
        if threshold is not None or found.comparison is not None:
            _screen.data(f"next: {ADVICE[found.advice(threshold, lost)]}")
    if threshold is not None and not found.reaches(threshold, strict=strict):
        end = "the worse end of its interval" if strict else "its score"
        raise AnswerNo(f"{found.model}: {end} does not reach {threshold:g}")


def measure(
    model: str,
    data: Sequence[Path],
    *,
    metric: str | None,
    baseline: str | None,
    forgetting: bool,
    judge: str | None,
    rubric: Path | None,
    engine: str | None,
    settings: dict[str, Any],
) -> tuple[Evaluation, Forgetting | None]:
    """Put the questions to the models, with a progress bar."""
    from llamune.evaluate import (
        METRICS,
        Asking,
        base_of,
        evaluate,
        forgotten,
        general_items,
        metric_named,
        metric_of,
        metrics_of,
        read_items,
    )
    from llamune.store import resolve

    items = read_items(data)
    chosen = metric_named(metric) if metric else metric_of(items)
    if judge is None and METRICS["judge"] in metrics_of(chosen, items):
        raise LlamuneError("metric judge needs a model that judges", hint="name it: --judge REF")
    subject: Model | str = model if engine else resolve(model)
    other: Model | str | None = baseline if engine or baseline is None else resolve(baseline)
    before = other
    if forgetting and before is None:
        before = base_of(resolve(model))
    total = len(items) * (1 + (other is not None)) + 2 * len(general_items()) * forgetting
    with ExitStack() as stack:
        marker = judge_of(judge, rubric, stack, settings)
        advance = stack.enter_context(_screen.progress("asking", total=total, unit="questions"))
        asking = Asking(advance=advance, **settings)
        found = evaluate(
            subject,
            items,
            chosen,
            task=", ".join(path.stem for path in data),
            asking=asking,
            baseline=other,
            judge=marker,
            training=None if isinstance(subject, str) else training(subject),
        )
        lost = forgotten(subject, before, asking) if forgetting and before is not None else None
    return found, lost


def refuse_unwritable(path: Path, language: str | None) -> None:
    """Refuse a page that could not be written, before a question is asked.

    Raises:
        LlamuneError: its folder is missing, or its language is not known.
    """
    from llamune.words import catalogue

    catalogue("evaluate", language)
    if not path.parent.is_dir():
        raise LlamuneError(f"{path.parent}: no such folder")


def write_page(
    path: Path, found: Evaluation, lost: Forgetting | None, language: str | None
) -> None:
    """Write the page to browse the items."""
    from llamune.evaluate import html_report
    from llamune.files import write_text

    write_text(path, html_report(found, lost, language=language), replace=True)
    _screen.note(f"wrote {path}")


def judge_of(
    name: str | None, rubric: Path | None, stack: ExitStack, settings: dict[str, Any]
) -> Judge | None:
    """Open the model that judges, for as long as `stack` lives."""
    if name is None:
        return None
    from llamune.engine import open_engine
    from llamune.evaluate import RUBRIC, AnswerBook, Judge, identity_of
    from llamune.store import resolve

    text = rubric.read_text("utf-8") if rubric else RUBRIC
    model = resolve(name)
    book = AnswerBook(None)
    if not settings["fresh"]:
        book = AnswerBook.for_model(identity_of(model), "marks", {})
    n_threads, n_parallel = settings["n_threads"], settings["n_parallel"]
    engine = stack.enter_context(open_engine(model, n_threads=n_threads, n_parallel=n_parallel))
    return Judge(engine, rubric=text, book=book)


def training(model: Model) -> Training | None:
    """Return what a model was trained on, where that is known and still here."""
    from llamune.evaluate import training_of

    try:
        return training_of(model)
    except LlamuneError as error:
        _screen.note(f"overlap with the training data is not checked: {error.message}")
        return None


def spell(score: Score) -> str:
    """Return a score with its interval."""
    return f"{score.mean:.3f}  [{score.low:.3f}, {score.high:.3f}]"


def print_evaluation(found: Evaluation, lost: Forgetting | None) -> None:
    """Print scores as a table, and what may be said of them."""
    from rich.table import Table

    table = Table("model", "n", f"{found.metric.name}  [95 %]", box=None, pad_edge=False)
    if found.comparison is not None and found.baseline is not None:
        table.add_row(found.baseline, str(found.score.n), spell(found.comparison.before))
    table.add_row(found.model, str(found.score.n), spell(found.score))
    _screen.show(table)
    if found.comparison is not None:
        difference = found.comparison.difference
        low, high = difference.interval.low, difference.interval.high
        _screen.data(f"difference {difference.mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        _screen.data(f"{found.model} against {found.baseline}: {found.comparison.sentence}")
    if found.last is not None and found.since_last is not None:
        _screen.data(
            f"since {found.last.time}: {found.since_last} (was {found.last.score.mean:.3f})"
        )
    if lost is not None:
        print_forgetting(lost)
    if found.training_run is not None:
        print_overlaps(found)


def print_forgetting(lost: Forgetting) -> None:
    """Print the general suite by kind of question, and the drop with its interval."""
    from rich.table import Table

    table = Table("general suite", "before", "after", box=None, pad_edge=False)
    for name, (share_before, share_after) in lost.categories.items():
        table.add_row(name, f"{share_before:.2f}", f"{share_after:.2f}")
    before, after = lost.comparison.before, lost.comparison.after
    table.add_row(f"all {after.n}", spell(before), spell(after))
    _screen.data("")
    _screen.show(table)
    difference = lost.comparison.difference
    low, high = difference.interval.low, difference.interval.high
    _screen.data(
        f"against {lost.baseline}: {difference.mean:+.3f} [{low:+.3f}, {high:+.3f}], "
        f"{lost.comparison.sentence}"
    )


def print_overlaps(found: Evaluation) -> None:
    """Print which items stand in the data that the model was trained on."""
    places = ", ".join(found.items[one.place].where for one in found.overlaps[:MOST_NAMED])
    if not found.overlaps:
        _screen.data(f"none of the items is in the training data of {found.training_run}")
        return
    same = sum(one.kind == "same question" for one in found.overlaps)
    more = ", …" if len(found.overlaps) > MOST_NAMED else ""
    _screen.warn(
        f"{len(found.overlaps)} of {found.score.n} items are in the training data of "
        f"{found.training_run} ({same} with the same question): {places}{more}; "
        "their scores say nothing"
    )


def print_items(found: Evaluation, *, only_wrong: bool) -> None:
    """Print questions with what was expected and said."""
    for place, item in enumerate(found.items):
        if only_wrong and found.is_right(place):
            continue
        outcome = found.outcomes[place]
        _screen.data(f"\n{item.where}  score {outcome.score:.3f}")
        _screen.data(_screen.plain_lines(f"  asked:    {item.question}"))
        _screen.data(_screen.plain_lines(f"  expected: {item.expected[0]}"))
        if found.baseline_outcomes is not None:
            _screen.data(
                _screen.plain_lines(f"  baseline: {found.baseline_outcomes[place].answer}")
            )
        _screen.data(_screen.plain_lines(f"  said:     {outcome.answer}"))
