"""Which licences a model carries: its keys, its licence texts, its base chain, its name.

A key and a text are evidence; a name is a hint, and a hinted licence counts as long as the
file says nothing that settles the matter, because the safe mistake is to ask for too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llamune.license.record import Terms, all_terms

__all__ = ["Evidence", "Found", "licences_of", "of_key", "of_text"]

MAX_BASES = 64  # more ancestors than any real model names
PLAIN_WORDS = frozenset({"other", "unknown", "none", ""})  # keys that name no licence


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Where a licence was seen.

    Args:
        kind: a metadata key, a licence text, a model name, what the person gave for the
            weights, or for the training data.
        where: the key, layer or name.
        said: what stood there, cut to a line.
    """

    kind: Literal["key", "text", "name", "given", "data"]
    where: str
    said: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """A licence of the chain with what speaks for it.

    Args:
        terms: the record, or None when the evidence names a licence that we have no record of.
        evidence: at least one piece.
    """

    terms: Terms | None
    evidence: tuple[Evidence, ...]

    @property
    def label(self) -> str:
        """The licence's id, or what the file calls it."""
        return self.terms.id if self.terms else self.evidence[0].said

    @property
    def only_hinted(self) -> bool:
        """Whether nothing but a model's name speaks for it."""
        return all(piece.kind == "name" for piece in self.evidence)

    @property
    def only_data(self) -> bool:
        """Whether it is the licence of training data alone."""
        return all(piece.kind == "data" for piece in self.evidence)


def licences_of(
    metadata: Mapping[str, Any],
    texts: Iterable[str] = (),
    *,
    names: Iterable[str] = (),
    given: Iterable[str] = (),
    data: Iterable[str] = (),
) -> tuple[Found, ...]:
    """Return every licence that a model carries, the best proven first.

    Args:
        metadata: the keys of the GGUF file.
        texts: its licence texts (an Ollama model's licence layers).
        names: what the model is called; a hint only.
        given: ids or keys that the person names for the weights.
        data: ids or keys of the training data's licences.

    Returns:
        One entry per licence; empty when nothing says anything.
    """
    pieces: list[tuple[Terms | None, Evidence]] = []
    pieces += from_keys(metadata)
    pieces += from_texts(texts)
    pieces += [(of_key(key), Evidence(kind="given", where="given", said=key)) for key in given]
    pieces += [
        (of_key(key), Evidence(kind="data", where="training data", said=key)) for key in data
    ]
    pieces += from_names([*names_in(metadata), *names])
    groups: dict[str, list[tuple[Terms | None, Evidence]]] = {}
    for record, evidence in pieces:
        groups.setdefault(record.id if record else evidence.said, []).append((record, evidence))
    return tuple(
        Found(terms=group[0][0], evidence=tuple(evidence for _, evidence in group))
        for group in groups.values()
    )


def of_key(key: str) -> Terms | None:
    """Return the licence that a `general.license` value or hub id names, or None."""
    wanted = key.strip().lower()
    for record in all_terms().values():
        if wanted == record.id.lower() or wanted in record.keys:
            return record
    return None


def of_text(text: str) -> tuple[Terms, ...]:
    """Return the licences whose marks stand in a text; the more specific one wins."""
    folded = " ".join(text.split()).lower()
    matched = [
        (record, frozenset(phrases))
        for record in all_terms().values()
        for phrases in record.marks
        if all(phrase in folded for phrase in phrases)
    ]
    return tuple(
        record
        for record, phrases in matched
        if not any(covers(other, phrases) for _, other in matched)
    )


def covers(other: frozenset[str], phrases: frozenset[str]) -> bool:
    """Whether `other` names the same text more exactly than `phrases` does."""
    if other == phrases:
        return False
    return all(any(phrase in longer for longer in other) for phrase in phrases)


def from_keys(metadata: Mapping[str, Any]) -> list[tuple[Terms | None, Evidence]]:
    """Return what `general.license`, its name and its link say."""
    found: list[tuple[Terms | None, Evidence]] = []
    for key in ("general.license", "general.license.name"):
        for said in spoken(metadata.get(key)):
            record = of_key(said) or next(iter(of_text(said)), None)
            if record is not None or said.lower() not in PLAIN_WORDS:
                found.append((record, Evidence(kind="key", where=key, said=one_line(said))))
    if any(record is not None for record, _ in found):
        # `license = other` beside a known name, or a name that only repeats the id
        found = [(record, evidence) for record, evidence in found if record is not None]
    return found


def from_texts(texts: Iterable[str]) -> list[tuple[Terms | None, Evidence]]:
    """Return what each licence text says that it is."""
    found: list[tuple[Terms | None, Evidence]] = []
    for number, text in enumerate(texts):
        if is_use_policy(text):
            continue
        evidence = Evidence(kind="text", where=f"licence layer {number}", said=one_line(text))
        records = of_text(text)
        found += [(record, evidence) for record in records] or [(None, evidence)]
    return found


def is_use_policy(text: str) -> bool:
    """Whether a layer is the use policy that belongs to a licence in another layer."""
    start = " ".join(text[:600].split()).lower()
    return ("use policy" in start) and not of_text(text)


def from_names(names: Iterable[str]) -> list[tuple[Terms | None, Evidence]]:
    """Return the licences that models of these names usually carry."""
    found: list[tuple[Terms | None, Evidence]] = []
    for name in dict.fromkeys(names):
        for record in all_terms().values():
            if any(re.search(hint, name, re.IGNORECASE) for hint in record.hints):
                evidence = Evidence(kind="name", where="model name", said=one_line(name))
                found.append((record, evidence))
    return found


def names_in(metadata: Mapping[str, Any]) -> list[str]:
    """Return the names that a file gives itself and its bases."""
    keys = ["general.name", "general.basename"]
    count = metadata.get("general.base_model.count", 0)
    for number in range(min(count, MAX_BASES) if isinstance(count, int) else 0):
        keys += [f"general.base_model.{number}.{part}" for part in ("name", "repo_url")]
    names = [said for key in keys for said in spoken(metadata.get(key))]
    size = " ".join(spoken(metadata.get("general.size_label")))
    return names + [f"{name} {size}" for name in names[:2] if size]


def spoken(value: Any) -> list[str]:
    """Return the texts in a metadata value that should be a string or a list of them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [part for part in value if isinstance(part, str)]
    return []


def one_line(text: str, *, limit: int = 80) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
