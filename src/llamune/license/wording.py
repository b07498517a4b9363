"""The sentences for people: what may be done and what is owed, in English or Japanese."""

from __future__ import annotations

from collections.abc import Sequence

from llamune.license.derive import Derivative, Owed
from llamune.license.record import ACTS, SHARING, Act, Duty
from llamune.words import Catalogue, catalogue

__all__ = ["describe_duty", "obligations", "summary_lines"]


def describe_duty(duty: Duty, words: Catalogue) -> str:
    """Return one duty as a sentence, without its licence and clause."""
    return words(f"duty-{duty.kind}", **duty.fields)


def obligations(
    derivative: Derivative, *, acts: Sequence[Act] = SHARING, language: str | None = None
) -> list[str]:
    """Return what is owed for these acts, one sentence a duty with licence and clause.

    Args:
        derivative: what `derive` found.
        acts: what one wants to do.
        language: `en` or `ja`; default the locale's.
    """
    words = catalogue("license", language)
    lines = [sentence(item, words) for item in derivative.owed_for(*acts)]
    return list(dict.fromkeys(lines))


def sentence(item: Owed, words: Catalogue) -> str:
    """Return a duty with the licence and the clause that asks for it."""
    source = f"{item.licence} {item.duty.clause}".strip()
    key = "owed" if item.confirmed else "owed-unconfirmed"
    return words(key, duty=describe_duty(item.duty, words), source=source)


def summary_lines(derivative: Derivative, *, language: str | None = None) -> list[str]:
    """Return the Markdown lines that a report says about the licence of a tuned model.

    Args:
        derivative: what `derive` found.
        language: `en` or `ja`; default the locale's.

    Returns:
        Licences, problems, a table of acts, and the to-do list.
    """
    words = catalogue("license", language)
    names = ", ".join(item.label for item in derivative.found) or words("none-found")
    lines = [words("summary-licences", licences=names), ""]
    lines += [f"- {words(key, **fields)}" for key, fields in derivative.problems]
    if derivative.problems:
        lines.append("")
    lines += [f"| {words('head-act')} | {words('head-answer')} | {words('head-clause')} |"]
    lines += ["|---|---|---|"]
    for act in ACTS:
        verdict = derivative.verdicts[act]
        clauses = "; ".join(
            f"{licence} {ruling.clause}".strip() for licence, ruling in verdict.rulings.items()
        )
        answer = words(f"answer-{verdict.answer.replace(' ', '-')}")
        lines.append(f"| {words(f'act-{act}')} | {answer} | {clauses} |")
    lines += ["", words("summary-todo"), ""]
    lines += [f"- {line}" for line in obligations(derivative, language=language)]
    lines += ["", words("not-legal-advice")]
    return lines
