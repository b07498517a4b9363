"""What a check finds: the kinds, how grave each is, and the command that mends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamune.data.records import Source

__all__ = ["KINDS", "Example", "Finding", "Flaw", "Kind"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One thing that can be wrong.

    Attributes:
        severity: `error` (training on it as it is would be wrong), `warning` or `note`.
        fix: the options of `llamune data clean` that mend it; empty where a person must look.
        per_record: whether one record alone shows it.
    """

    severity: str
    fix: str = ""
    per_record: bool = True


KINDS: Mapping[str, Kind] = {
    "unreadable": Kind(severity="error", fix="--drop unreadable"),
    "empty_answer": Kind(severity="error", fix="--drop empty_answer"),
    "control_token": Kind(severity="error", fix="--fix control_token"),
    "overlap": Kind(severity="error", fix="--drop overlap", per_record=False),
    "refusal": Kind(severity="warning", fix="--drop refusal"),
    "cut_answer": Kind(severity="warning", fix="--drop cut_answer"),
    "duplicate": Kind(severity="warning", fix="--drop duplicate", per_record=False),
    "near_duplicate": Kind(severity="warning", fix="--drop near_duplicate", per_record=False),
    "contradiction": Kind(severity="warning", fix="--drop contradiction", per_record=False),
    "mojibake": Kind(severity="warning", fix="--fix unicode"),
    "control_character": Kind(severity="warning", fix="--fix control_character"),
    "personal_data": Kind(severity="warning", fix="--drop personal_data"),
    "html": Kind(severity="warning", fix="--fix html"),
    "too_long": Kind(severity="warning", fix="--drop too_long"),
    "language": Kind(severity="note", fix="--drop language"),
    "imbalance": Kind(severity="note", per_record=False),
    "too_few": Kind(severity="note", per_record=False),
}
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """One fault of one record.

    Attributes:
        kind: a key of `KINDS`.
        field: where in the record, such as `messages[1]`.
        detail: what was found there, in a few words; personal data is masked.
    """

    kind: str
    field: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """A record that shows a finding."""

    source: Source
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "file": self.source.path,
            "record": self.source.number,
            "line": self.source.line,
            "detail": self.detail,
        }


@dataclass(frozen=True, kw_only=True)
class Finding:
    """All that was found of one kind.

    Attributes:
        kind: a key of `KINDS`.
        count: records concerned.
        examples: the first few of them.
        fix: the command that mends it; empty where a person must look.
        summary: figures that belong to it, in a few words.
    """

    kind: str
    count: int
    examples: tuple[Example, ...] = ()
    fix: str = ""
    summary: str = ""

    @property
    def severity(self) -> str:
        """How grave it is."""
        return KINDS[self.kind].severity

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "summary": self.summary,
            "examples": [example.as_json() for example in self.examples],
            "fix": self.fix,
        }
