"""`llamune license`: what the licences of a model let you do with what you make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.license import Act, Derivative, Found, Verdict


def command(
    ref: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    act: Annotated[
        str | None,
        typer.Option(
            help="answer for one act, and exit 1 unless it is permitted: use, modify, "
            "share-merged, share-adapter, sell-merged, sell-adapter, serve, train-on-outputs"
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--license", help="a licence that the weights carry although the file is mute"
        ),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data-license", help="a licence of the training data")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--lang", help="en or ja; default the locale's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say which licences a model carries, and what they ask of what is made from it.

    Looks at the file's keys, at licence texts by their content, and at the chain of bases.
    Unknown or contradictory licences count as not permitted. Not legal advice.
    """
    from llamune.errors import AnswerNo
    from llamune.license import derive

    wanted = None if act is None else act_named(act)
    derivative = derive(find(ref, given=given or (), data=data or ()))
    if as_json:
        _screen.data_json(report(ref, derivative))
    elif wanted is None:
        show(derivative, language)
    else:
        show_verdict(derivative, derivative.verdicts[wanted], language)
    if wanted is not None and not derivative.verdicts[wanted].permitted:
        answer = derivative.verdicts[wanted].answer
        raise AnswerNo(f"{ref}: {wanted}: {answer}", hint="`llamune license REF` says why")


def act_named(text: str) -> Act:
    """Return the act of that name.

    Raises:
        LlamuneError: there is none.
    """
    from llamune.errors import LlamuneError
    from llamune.license import ACTS

    for known in ACTS:
        if text == known:
            return known
    raise LlamuneError(f"act {text!r} is not known", hint=f"one of: {', '.join(ACTS)}")


def find(ref: str, *, given: Any, data: Any) -> tuple[Found, ...]:
    """Return the licences of a model's chain."""
    from llamune.gguf import ModelFile
    from llamune.license import licences_of
    from llamune.store import resolve

    model = resolve(ref)
    names = [str(model.name.model) if model.name else model.path.stem, str(model)]
    names += [model.annotations.get("llamune.base.name", "")]
    with ModelFile.open(model.paths, mapped=False) as file:
        return licences_of(
            file.metadata, model.licenses, names=filter(None, names), given=given, data=data
        )


def show(derivative: Derivative, language: str | None) -> None:
    """Print what was found, the table of acts, what is whose, and the to-do list."""
    from rich.table import Table

    from llamune.license import ACTS, obligations
    from llamune.words import catalogue

    words = catalogue("license", language)
    for item in derivative.found:
        name = item.terms.name if item.terms else words("unknown-licence")
        _screen.data(_screen.plain(f"{item.label} · {name}"))
        for piece in item.evidence:
            _screen.data(_screen.plain(f"  {words(f'evidence-{piece.kind}')}: {piece.said}"))
    for key, fields in derivative.problems:
        _screen.data(_screen.plain(f"! {words(key, **fields)}"))
    table = Table(box=None, pad_edge=False)
    for head in ("head-act", "head-answer", "head-clause"):
        table.add_column(words(head), overflow="fold")
    for act in ACTS:
        verdict = derivative.verdicts[act]
        table.add_row(words(f"act-{act}"), answer_words(verdict, words), clauses(verdict))
    _screen.data("")
    _screen.show(table)
    _screen.data(f"\n{words('yours')}\n{words('not-yours')}\n\n{words('summary-todo')}")
    for line in obligations(derivative, language=language):
        _screen.data(_screen.plain(f"  - {line}"))
    _screen.data(f"\n{words('adapter-reading')}\n{words('not-legal-advice')}")


def show_verdict(derivative: Derivative, verdict: Verdict, language: str | None) -> None:
    """Print the answer for one act, clause by clause, and what it asks."""
    from llamune.license import obligations
    from llamune.words import catalogue

    words = catalogue("license", language)
    _screen.data(f"{words(f'act-{verdict.act}')}: {answer_words(verdict, words)}")
    for licence, ruling in verdict.rulings.items():
        said = words(f"answer-{ruling.answer.replace(' ', '-')}")
        _screen.data(_screen.plain(f"  {licence} {ruling.clause}: {said}"))
    for key, fields in derivative.problems:
        _screen.data(_screen.plain(f"! {words(key, **fields)}"))
    for line in obligations(derivative, acts=[verdict.act], language=language):
        _screen.data(_screen.plain(f"  - {line}"))


def answer_words(verdict: Verdict, words: Any) -> str:
    """Return an answer in the person's language."""
    return str(words(f"answer-{verdict.answer.replace(' ', '-')}"))


def clauses(verdict: Verdict) -> str:
    """Return the clauses that the answer comes from."""
    pairs = verdict.rulings.items()
    return "; ".join(f"{licence} {ruling.clause}".strip() for licence, ruling in pairs)


def report(ref: str, derivative: Derivative) -> dict[str, Any]:
    """Return everything as the JSON output has it."""
    from llamune.license import describe_duty
    from llamune.words import catalogue

    words = catalogue("license", "en")
    return {
        "ref": ref,
        "licences": [
            {
                "id": item.label,
                "name": item.terms.name if item.terms else None,
                "version": item.terms.version if item.terms else None,
                "source": item.terms.source if item.terms else None,
                "checked": item.terms.checked.isoformat() if item.terms else None,
                "confirmed": bool(item.terms and item.terms.confirmed),
                "evidence": [
                    {"kind": piece.kind, "where": piece.where, "said": piece.said}
                    for piece in item.evidence
                ],
            }
            for item in derivative.found
        ],
        "acts": {
            act: {
                "answer": verdict.answer,
                "permitted": verdict.permitted,
                "clauses": {
                    licence: {"answer": ruling.answer, "clause": ruling.clause}
                    for licence, ruling in verdict.rulings.items()
                },
            }
            for act, verdict in derivative.verdicts.items()
        },
        "duties": [
            {
                "licence": item.licence,
                "kind": item.duty.kind,
                "clause": item.duty.clause,
                "confirmed": item.confirmed,
                "acts": list(item.duty.acts),
                "text": describe_duty(item.duty, words),
                **item.duty.fields,
            }
            for item in derivative.owed
        ],
        "problems": [words(key, **fields) for key, fields in derivative.problems],
    }
