"""The result of a check, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from llamune.data.findings import SEVERITIES, Finding

__all__ = ["PURPOSES", "Lengths", "Report"]

PURPOSES: Mapping[str, tuple[int, int]] = {
    "task": (100, 1_000),
    "domain": (1_000, 10_000),
    "language": (10_000, 100_000),
}
"""How many records each purpose asks for, from and to."""

N_BINS = 12


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the records are.

    Attributes:
        unit: `tokens`, or `characters` when no model was named.
        total: units in all records.
        mean: units a record.
        median: units.
        percentile95: units.
        longest: units.
        edges: borders of the histogram's bins, one more than there are bins.
        counts: records in each bin.
        limit: the maximum length, or the model's context; None when neither is known.
        n_beyond: records longer than `limit`.
    """

    unit: str
    total: int
    mean: float
    median: float
    percentile95: float
    longest: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    limit: int | None
    n_beyond: int

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64], *, unit: str, limit: int | None) -> Lengths:
        """Sum up the lengths of records."""
        if not len(lengths):
            lengths = np.zeros(1, dtype=np.int64)
        longest = int(lengths.max())
        edges = np.unique(np.linspace(0, longest + 1, N_BINS + 1).astype(np.int64))
        counts, _ = np.histogram(lengths, bins=edges)
        return cls(
            unit=unit,
            total=int(lengths.sum()),
            mean=float(lengths.mean()),
            median=float(np.median(lengths)),
            percentile95=float(np.percentile(lengths, 95)),
            longest=longest,
            edges=tuple(edges.tolist()),
            counts=tuple(counts.tolist()),
            limit=limit,
            n_beyond=int((lengths > limit).sum()) if limit else 0,
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a check found.

    Attributes:
        files: each file's path, with its kind and encoding.
        formats: records of each format.
        n_records: readable records.
        n_unreadable: records that could not be read.
        n_flawed: readable records with an error or a warning.
        lengths: how long the records are.
        languages: records by the language of their answer; the empty name is too short to tell.
        sources: records by file.
        findings: what was found, the gravest first.
        fix: the one command that mends all that can be mended; empty for nothing.
        notes: how the files were taken.
        purpose: what the data is for, a key of `PURPOSES`; empty when not said.
        model: the model whose tokenizer counted; empty for none.
        template: whether the records were rendered through a chat template.
        seconds: how long the check took.
    """

    files: tuple[Mapping[str, str], ...]
    formats: Mapping[str, int]
    n_records: int
    n_unreadable: int
    n_flawed: int
    lengths: Lengths
    languages: Mapping[str, int]
    sources: Mapping[str, int]
    findings: tuple[Finding, ...]
    fix: str = ""
    notes: tuple[str, ...] = ()
    purpose: str = ""
    model: str = ""
    template: bool = False
    seconds: float = field(default=0.0, compare=False)

    @property
    def n_errors(self) -> int:
        """Findings that are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def clean_share(self) -> float:
        """Readable records without an error or a warning, over all records, 0 to 1."""
        n_all = self.n_records + self.n_unreadable
        return (self.n_records - self.n_flawed) / n_all if n_all else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "files": [dict(file) for file in self.files],
            "formats": dict(self.formats),
            "records": self.n_records,
            "unreadable": self.n_unreadable,
            "clean_share": self.clean_share,
            "clean_share_formula": (
                "(readable records - those with an error or warning) / (readable + unreadable)"
            ),
            "lengths": vars(self.lengths),
            "languages": dict(self.languages),
            "sources": dict(self.sources),
            "findings": [finding.as_json() for finding in self.findings],
            "fix": self.fix,
            "notes": list(self.notes),
            "purpose": self.purpose,
            "model": self.model,
            "rendered": self.template,
            "seconds": round(self.seconds, 3),
        }


def by_severity(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return findings, the gravest first, then the most frequent."""
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), -f.count, f.kind)))
