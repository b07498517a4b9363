"""What a derivative may be used for: the strictest answer of its chain, the duties of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamune.license.recognise import Found
from llamune.license.record import ACTS, ANSWERS, Act, Answer, Duty, Ruling, Terms

__all__ = ["Derivative", "Owed", "Verdict", "derive"]

# a share-alike licence conflicts with every other one, save those that let their terms be joined
BLOCKING = frozenset({"problem-none", "problem-unknown", "problem-conflict"})
PERMISSIVE = frozenset({"Apache-2.0", "MIT", "CC0-1.0", "CC-BY-4.0", "ODC-By-1.0"})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer for one act.

    Args:
        act: what one wants to do.
        answer: the strictest answer of the chain.
        rulings: what each licence of the chain says, by its id.
    """

    act: Act
    answer: Answer
    rulings: Mapping[str, Ruling]

    @property
    def permitted(self) -> bool:
        """Whether one may rely on a yes."""
        return self.answer in {"allowed", "conditions"}


@dataclass(frozen=True, kw_only=True)
class Owed:
    """A duty and the licence that asks for it."""

    licence: str
    confirmed: bool
    duty: Duty


@dataclass(frozen=True, kw_only=True)
class Derivative:
    """What the chain of licences says about a model made from it.

    Args:
        found: the licences with what speaks for them.
        verdicts: one per act.
        owed: the union of the duties.
        problems: keys of `words/license.toml` with their fields: what is unknown or contradicts.
    """

    found: tuple[Found, ...]
    verdicts: Mapping[Act, Verdict]
    owed: tuple[Owed, ...]
    problems: tuple[tuple[str, Mapping[str, str]], ...]

    def owed_for(self, *acts: Act) -> tuple[Owed, ...]:
        """Return the duties asked for any of these acts."""
        return tuple(item for item in self.owed if set(item.duty.acts) & set(acts))


def derive(found: Sequence[Found]) -> Derivative:
    """Work out what may be done with a model that carries these licences.

    Args:
        found: what `licences_of` returned, for the base and for everything that went in.

    Returns:
        For each act the strictest answer in the chain; nothing known means "not confirmed".
    """
    problems = problems_of(found)
    blocked = any(
        key in {"problem-none", "problem-unknown", "problem-conflict"} for key, _ in problems
    )
    verdicts = {act: verdict(act, found, blocked=blocked) for act in ACTS}
    owed = tuple(
        Owed(licence=item.terms.id, confirmed=item.terms.confirmed, duty=duty)
        for item in found
        if item.terms is not None
        for duty in item.terms.duties
    )
    return Derivative(found=tuple(found), verdicts=verdicts, owed=owed, problems=tuple(problems))


def verdict(act: Act, found: Sequence[Found], *, blocked: bool) -> Verdict:
    """Return the strictest answer for one act."""
    answers: list[Answer] = ["not confirmed"] if blocked else []
    rulings = {}
    for item in found:
        if item.terms is None:
            continue
        answers.append(item.terms.answer(act))
        rulings[item.terms.id] = item.terms.rulings[act]
    return Verdict(act=act, answer=max(answers, key=ANSWERS.index), rulings=rulings)


def problems_of(found: Sequence[Found]) -> list[tuple[str, Mapping[str, str]]]:
    """Return what is unknown, unsure or contradictory in a chain."""
    if not found:
        return [("problem-none", {})]
    problems: list[tuple[str, Mapping[str, str]]] = []
    for item in found:
        if item.terms is None:
            where = item.evidence[0].where
            problems.append(("problem-unknown", {"licence": item.label, "where": where}))
        elif item.only_hinted:
            said = item.evidence[0].said
            problems.append(("problem-hint", {"licence": item.label, "name": said}))
        if item.terms is not None and not item.terms.confirmed:
            problems.append(("problem-unconfirmed", {"licence": item.label}))
    by_key = {item.label for item in found if has(item, "key")}
    by_text = {item.label for item in found if has(item, "text")}
    if by_key and by_text and not by_key & by_text:
        fields = {"key": ", ".join(sorted(by_key)), "text": ", ".join(sorted(by_text))}
        problems.append(("problem-disagree", fields))
    problems += conflicts_of(found)
    return problems


def has(item: Found, kind: str) -> bool:
    """Whether a piece of evidence of this kind speaks for a licence."""
    return any(piece.kind == kind for piece in item.evidence)


def conflicts_of(found: Sequence[Found]) -> list[tuple[str, Mapping[str, str]]]:
    """Return pairs of licences that each demand their own terms for the whole.

    Share-alike of training data is said but is no conflict: whether it reaches the weights is
    unsettled.
    """
    problems: list[tuple[str, Mapping[str, str]]] = []
    records = [item.terms for item in found if item.terms is not None]
    for item in found:
        alike = (
            [duty for duty in item.terms.duties if duty.kind == "share-alike"] if item.terms else []
        )
        for duty in alike:
            one = f"{item.label} {duty.clause}".strip()
            if item.only_data:
                problems.append(("problem-data-alike", {"licence": one}))
                continue
            problems += [
                ("problem-conflict", {"one": one, "other": claim_of(other)})
                for other in records
                if other.id != item.label and other.id not in PERMISSIVE
            ]
    return problems


def claim_of(record: Terms) -> str:
    """Return a licence with the clause by which its own terms follow the whole."""
    clauses = [duty.clause for duty in record.duties if duty.kind == "use-restrictions"]
    return " ".join([record.id, *clauses[:1]]).strip()
