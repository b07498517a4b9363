"""Terms of licences as data: one TOML file per licence in `terms/`, checked when it is read.

`tag` says how its content is known: "T" read in the licence's own text, "2" quoted by others,
"U" general knowledge. Only "T" is ever answered with a yes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, Literal

from llamune.errors import LlamuneError

__all__ = [
    "ACTS",
    "ANSWERS",
    "DUTY_KINDS",
    "SHARING",
    "Act",
    "Answer",
    "Duty",
    "Ruling",
    "Terms",
    "all_terms",
    "terms",
]

Act = Literal[
    "use",
    "modify",
    "share-merged",
    "share-adapter",
    "sell-merged",
    "sell-adapter",
    "serve",
    "train-on-outputs",
]
ACTS: tuple[Act, ...] = (
    "use",
    "modify",
    "share-merged",
    "share-adapter",
    "sell-merged",
    "sell-adapter",
    "serve",
    "train-on-outputs",
)
SHARING: tuple[Act, ...] = ("share-merged", "share-adapter", "sell-merged", "sell-adapter")

Answer = Literal["allowed", "conditions", "not confirmed", "no"]
ANSWERS: tuple[Answer, ...] = ("allowed", "conditions", "not confirmed", "no")  # the strictest last

# what a licence can demand -> the fields that its sentence needs (words/license.toml, `duty-…`)
DUTY_KINDS: dict[str, frozenset[str]] = {
    "attribution": frozenset(),
    "built-with": frozenset({"line"}),
    "copyright-line": frozenset(),
    "delete-on-termination": frozenset(),
    "ends-on-suit": frozenset(),
    "export-rules": frozenset(),
    "guardrails": frozenset(),
    "imitation-is-derivative": frozenset(),
    "keep-notices": frozenset(),
    "licence-text": frozenset(),
    "name-prefix": frozenset({"prefix"}),
    "no-competing-models": frozenset({"whom"}),
    "no-other-models": frozenset({"family"}),
    "no-trademark": frozenset(),
    "non-commercial": frozenset({"terms", "whom"}),
    "not-in-eu": frozenset(),
    "notice-line": frozenset({"line"}),
    "pass-on-notice": frozenset(),
    "revenue-threshold": frozenset({"limit", "whom"}),
    "share-alike": frozenset({"terms"}),
    "show-name": frozenset({"name", "limit"}),
    "state-changes": frozenset(),
    "trademark-as-required": frozenset(),
    "use-policy": frozenset({"where"}),
    "use-restrictions": frozenset({"where"}),
    "user-threshold": frozenset({"limit", "whom"}),
}


@dataclass(frozen=True, kw_only=True)
class Duty:
    """One thing that a licence asks for.

    Args:
        kind: a key of `DUTY_KINDS`.
        clause: where the licence says so; empty when the facts do not name it.
        acts: the acts for which it is asked.
        fields: what its sentence needs, such as the exact `line` to show.
    """

    kind: str
    clause: str
    acts: tuple[Act, ...]
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What a licence says about one act, and in which clause."""

    answer: Answer
    clause: str


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One licence.

    Args:
        id: SPDX identifier or LicenseRef.
        name: as people call it.
        version: number or date.
        source: where the text is published.
        checked: the day on which this record was last held against it.
        tag: "T" read in the text, "2" quoted by others, "U" general knowledge.
        keys: what `general.license` or a hub card says for it, in lower case.
        marks: the text is this licence when it holds every phrase of one of these lists.
        hints: regular expressions over model names that usually carry it.
        rulings: the text's answer for each act, before `tag` is taken into account.
        duties: what it asks for.
    """

    id: str
    name: str
    version: str
    source: str
    checked: date
    tag: str
    keys: tuple[str, ...]
    marks: tuple[tuple[str, ...], ...]
    hints: tuple[str, ...]
    rulings: Mapping[Act, Ruling]
    duties: tuple[Duty, ...]

    @property
    def confirmed(self) -> bool:
        """Whether the record was read in the licence's own text."""
        return self.tag == "T"

    def answer(self, act: Act) -> Answer:
        """Return what may be relied on: anything unconfirmed is answered "not confirmed"."""
        return self.rulings[act].answer if self.confirmed else "not confirmed"


@cache
def all_terms() -> Mapping[str, Terms]:
    """Return every licence in this folder by its id."""
    folder = resources.files(__package__).joinpath("terms")
    records = [
        read_terms(tomllib.loads(entry.read_text(encoding="utf-8")), where=entry.name)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    ]
    return {record.id: record for record in records}


def terms(identifier: str) -> Terms:
    """Return the licence with this id or key, whatever its case.

    Raises:
        LlamuneError: no record has that id or key.
    """
    wanted = identifier.strip().lower()
    for record in all_terms().values():
        if wanted == record.id.lower() or wanted in record.keys:
            return record
    raise LlamuneError(
        f"licence {identifier!r} is not known", hint=f"one of: {', '.join(all_terms())}"
    )


def read_terms(table: dict[str, Any], *, where: str) -> Terms:
    """Return the record of one TOML file.

    Raises:
        LlamuneError: naming the file and the key that is missing, unknown or wrong.
    """
    known = {"id", "name", "version", "source", "checked", "tag", "keys", "marks", "hints"}
    unknown = set(table) - known - {"acts", "duties"}
    missing = (known - {"hints"} | {"acts"}) - set(table)
    if unknown or missing:
        raise LlamuneError(f"{where}: unknown keys {sorted(unknown)}, missing {sorted(missing)}")
    if table["tag"] not in {"T", "2", "U"}:
        raise LlamuneError(f"{where}: tag {table['tag']!r} is none of T, 2, U")
    if set(table["acts"]) != set(ACTS):
        raise LlamuneError(f"{where}: [acts] must answer exactly {', '.join(ACTS)}")
    return Terms(
        id=table["id"],
        name=table["name"],
        version=table["version"],
        source=table["source"],
        checked=table["checked"],
        tag=table["tag"],
        keys=tuple(table["keys"]),
        marks=tuple(tuple(phrases) for phrases in table["marks"]),
        hints=tuple(table.get("hints", ())),
        rulings={act: read_ruling(table["acts"][act], where=f"{where}: {act}") for act in ACTS},
        duties=tuple(read_duty(duty, where=where) for duty in table.get("duties", ())),
    )


def read_ruling(table: dict[str, Any], *, where: str) -> Ruling:
    """Return the answer for one act."""
    if set(table) != {"answer", "clause"} or table["answer"] not in ANSWERS:
        raise LlamuneError(f"{where}: wants an answer ({', '.join(ANSWERS)}) and a clause")
    return Ruling(answer=table["answer"], clause=table["clause"])


def read_duty(table: dict[str, Any], *, where: str) -> Duty:
    """Return one duty with exactly the fields that its kind needs."""
    fields = {key: value for key, value in table.items() if key not in {"kind", "clause", "acts"}}
    kind = table.get("kind", "")
    if kind not in DUTY_KINDS or set(fields) != DUTY_KINDS[kind] or "clause" not in table:
        raise LlamuneError(
            f"{where}: duty {kind!r} is not known, or has other fields than it needs"
        )
    acts = table.get("acts", SHARING)
    if not set(acts) <= set(ACTS):
        raise LlamuneError(f"{where}: duty {kind!r} names an unknown act")
    return Duty(kind=kind, clause=table["clause"], acts=tuple(acts), fields=fields)
