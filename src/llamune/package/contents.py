"""What goes into a package, and the refusals that come before a byte is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from llamune.errors import AnswerNo, LlamuneError
from llamune.license import Act, Derivative, of_text, terms
from llamune.package.standard_texts import has_blank, names_its_holder, standard_text
from llamune.runs import RunRecord

__all__ = [
    "Change",
    "Contents",
    "Kind",
    "PackageError",
    "check",
    "licence_texts",
    "suggested_name",
    "trademark_remark",
]

Kind = Literal["adapter", "merged"]
Change = Literal["adapter", "folded", "trained", "tuned", "none"]
MARK = re.compile(r"(?P<word>[A-Za-z]{3,})[0-9.]*")  # `gemma` of gemma2
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class PackageError(LlamuneError):
    """A package that cannot be made or read."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that a package is made of.

    Args:
        name: what the packaged model is called.
        kind: `adapter` (weights beside a base that is not inside) or `merged` (a whole file).
        change: what was done to the base: an adapter trained (and `folded` in), every weight
            `trained`, `tuned` in a way that is not known here, or nothing.
        gguf: the adapter or the merged model as GGUF.
        peft: the adapter as a PEFT folder, or None.
        base_name: what the base is called.
        base_digest: `sha256:…` of the base.
        architecture: of the base.
        derivative: what the licences say.
        texts: licence id to its full text.
        created: when the weights were finished.
        notice: the base's own NOTICE file, or None.
        record: the run that made it, or None.
        recipe: its recipe as YAML, or None.
        template: chat template layer of the store, or None.
        system: system prompt, or None.
        parameters: generation options.
        languages: of the data, as codes.
        datasets: names of the training data.
        sell: whether the package is to be sold, not only shared.
    """

    name: str
    kind: Kind
    change: Change
    gguf: Path
    base_name: str
    base_digest: str
    architecture: str
    derivative: Derivative
    texts: Mapping[str, str]
    created: datetime
    peft: Path | None = None
    notice: str | None = None
    record: RunRecord | None = None
    recipe: str | None = None
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    sell: bool = False

    @property
    def acts(self) -> tuple[Act, ...]:
        """What one does by passing the package on."""
        share: Act = "share-adapter" if self.kind == "adapter" else "share-merged"
        sell: Act = "sell-adapter" if self.kind == "adapter" else "sell-merged"
        return (share, sell) if self.sell else (share,)

    @property
    def gguf_name(self) -> str:
        """The weights' file name inside the package."""
        return "adapter.gguf" if self.kind == "adapter" else f"{self.name}.gguf"


def check(contents: Contents) -> None:
    """Refuse what the terms forbid, and what is missing, before anything is written.

    Raises:
        AnswerNo: a licence forbids it or its answer is not confirmed, with the clause.
        PackageError: the name breaks a naming rule, or a licence text is missing.
    """
    for act in contents.acts:
        verdict = contents.derivative.verdicts[act]
        if not verdict.permitted:
            said = "; ".join(
                f"{licence} {ruling.clause}: {doubted(licence, ruling.answer)}".strip()
                for licence, ruling in verdict.rulings.items()
            )
            raise AnswerNo(
                f"{contents.name}: {act}: {verdict.answer} ({said or 'no licence known'})",
                hint="`llamune license REF` says why; --license names one that the file omits",
            )
    if not PLAIN_NAME.fullmatch(contents.name):
        raise PackageError(
            f"{contents.name!r} is no name for a package",
            hint="letters, digits, dots, dashes and underscores; --as NAME",
        )
    wanted = suggested_name(contents.name, contents.derivative, contents.acts)
    if wanted != contents.name:
        raise PackageError(
            f"{contents.name}: {naming_rule(contents.derivative, contents.acts)}",
            hint=f"--as {wanted}",
        )
    check_texts(contents)


def check_texts(contents: Contents) -> None:
    """Refuse a package that lacks a licence text, or the line that says whose copyright it is.

    Raises:
        PackageError: which, and how to give it.
    """
    for item in contents.derivative.owed_for(*contents.acts):
        text = contents.texts.get(item.licence)
        is_missing = {
            "licence-text": text is None,
            "copyright-line": text is None or not names_its_holder(text),
        }
        if not is_missing.get(item.duty.kind, False):
            continue
        way = f"get it from {terms(item.licence).source} and say --license-text FILE"
        if has_blank(item.licence):
            way = f"say --copyright 'Copyright (c) …' as the base has it, or {way}"
        raise PackageError(
            f"the text of {item.licence}, with its copyright line if it has one, must go along "
            "and is not at hand",
            hint=way,
        )


def doubted(licence: str, answer: str) -> str:
    """Return a licence's answer, with the doubt about it where its text was not read."""
    return answer if terms(licence).confirmed else f"reported as {answer}, not confirmed"


def prefixes(derivative: Derivative, acts: Sequence[Act]) -> list[tuple[str, str, str]]:
    """Return the name beginnings that licences demand: prefix, licence, clause; longest first."""
    found = [
        (item.duty.fields["prefix"], item.licence, item.duty.clause)
        for item in derivative.owed_for(*acts)
        if item.duty.kind == "name-prefix"
    ]
    return sorted(found, key=lambda entry: -len(entry[0]))


def suggested_name(name: str, derivative: Derivative, acts: Sequence[Act]) -> str:
    """Return the name, with the beginning that a licence demands put in front where it lacks."""
    for prefix, _, _ in prefixes(derivative, acts):
        plain = prefix.replace(" ", "-")
        if not name.lower().startswith((prefix.lower(), plain.lower())):
            return f"{plain}-{name}"
    return name


def naming_rule(derivative: Derivative, acts: Sequence[Act]) -> str:
    """Return the naming rule as a sentence."""
    prefix, licence, clause = prefixes(derivative, acts)[0]
    return f"{licence} {clause} demands a name that begins with {prefix!r}"


def trademark_remark(contents: Contents) -> str | None:
    """Return what a name that begins with the base's mark should rather be, None when it is fine.

    Licences that reserve trademarks let a mark say where a model comes from, not whose it is.
    """
    mark = MARK.match(contents.base_name.rpartition("/")[2])
    reserved = [
        item for item in contents.derivative.owed_for(*contents.acts)
        if item.duty.kind == "no-trademark"
    ]  # fmt: skip
    demanded = prefixes(contents.derivative, contents.acts)
    if mark is None or not reserved or demanded:
        return None
    word, origin = mark["word"].lower(), mark[0].lower()
    if not contents.name.lower().startswith(word):
        return None
    rest = contents.name[len(word) :].lstrip("0123456789.-_") or "mine"
    rule = f"{reserved[0].licence} {reserved[0].duty.clause}"
    return (
        f"{contents.name} begins with a mark of the base's makers, as if it were theirs ({rule}); "
        f"better: --as {rest}-for-{origin}"
    )


def licence_texts(
    derivative: Derivative,
    layers: Sequence[str],
    given: Sequence[str],
    *,
    copyright_line: str | None = None,
) -> dict[str, str]:
    """Return the full texts of a chain's licences, recognised by their content.

    Args:
        derivative: whose licences.
        layers: texts that came with the base.
        given: texts that the person provides; they win.
        copyright_line: for a standard text that has a blank for it.

    Returns:
        Licence id to text; a licence whose text is not at hand is missing.
    """
    wanted = {item.terms.id for item in derivative.found if item.terms is not None}
    texts: dict[str, str] = {}
    for text in [*layers, *given]:
        for record in of_text(text):
            if record.id in wanted:
                texts[record.id] = text
    for identifier in sorted(wanted - set(texts)):
        found = standard_text(identifier, copyright_line=copyright_line)
        if found is not None:
            texts[identifier] = found
    return texts
