"""Mending and dropping what a check finds, with a line in a log for each record touched."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from llamune.data.characters import repair_unicode, without_control_characters, without_html
from llamune.data.checking import Inspector, batches
from llamune.data.errors import DataError
from llamune.data.findings import KINDS
from llamune.data.personal import personal_spans
from llamune.data.reading import DataFile, open_reader
from llamune.data.records import Message, Problem, Record
from llamune.data.signatures import Signatures, common_lines
from llamune.data.similar import SAMPLE_RECORDS, Likeness
from llamune.data.writing import fields_of, write_records
from llamune.errors import LlamuneError
from llamune.files import new_file

__all__ = ["DROPPABLE", "FIXES", "Cleaned", "clean"]

DROPPABLE = tuple(kind for kind, entry in KINDS.items() if entry.fix or entry.per_record)
TRAILING_BLANKS = re.compile(r"[ \t\u3000]+(?=\n|\Z)")
MANY_BLANK_LINES = re.compile(r"\n{4,}")
COMPARED = ("duplicate", "near_duplicate", "contradiction", "overlap")


def whitespace(text: str) -> str:
    """Remove blanks at line ends and around the text; at most two blank lines in a row."""
    even = text.replace("\r\n", "\n").replace("\r", "\n")
    return MANY_BLANK_LINES.sub("\n\n\n", TRAILING_BLANKS.sub("", even)).strip()


def masked_personal_data(text: str) -> str:
    """Replace personal data by its name in brackets."""
    for name, start, end in reversed(personal_spans(text)):
        text = f"{text[:start]}[{name}]{text[end:]}"
    return text


FIXES: Mapping[str, Callable[[str], str]] = {
    "unicode": repair_unicode,
    "whitespace": whitespace,
    "control_character": without_control_characters,
    "html": without_html,
    "personal_data": masked_personal_data,
}
"""What mends a text; `control_token` is added where a model's tokens are known."""


def system_in_question(record: Record) -> Record:
    """Put what the system turn says before the first question: some templates take no such turn."""
    turns = record.messages
    if len(turns) < 2 or turns[0].role != "system" or turns[1].role != "user":
        return record
    question = replace(turns[1], content=f"{turns[0].content}\n\n{turns[1].content}")
    return replace(record, messages=(question, *turns[2:]))


RECORD_FIXES: Mapping[str, Callable[[Record], Record]] = {"system": system_in_question}
"""What mends a record as a whole."""


@dataclass(kw_only=True)
class Cleaned:
    """What became of the records.

    Attributes:
        n_read: records read, bad ones included.
        n_written: records in the new file.
        dropped: records left out, by reason.
        fixed: records changed, by fix.
    """

    n_read: int = 0
    n_written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    fixed: Counter[str] = field(default_factory=Counter)


def clean(
    paths: Iterable[Path | DataFile],
    out: Path,
    *,
    drop: Sequence[str] = (),
    fix: Sequence[str] = (),
    held_out: Sequence[Path | DataFile] = (),
    inspector: Inspector | None = None,
    log: Path | None = None,
    format_: str | None = None,
    replace_out: bool = False,
) -> Cleaned:
    """Write a cleaned copy of data files: fixes first, then what still shows a flaw is dropped.

    Args:
        paths: files and folders to read.
        out: the new file; its name says which kind.
        drop: kinds of finding whose records are left out.
        fix: keys of `FIXES` and `RECORD_FIXES`, or `control_token`.
        held_out: files that `overlap` compares with.
        inspector: finds the flaws of single records; with a tokenizer for `too_long`.
        log: JSON Lines of every record changed or dropped and why; default beside `out`.
        format_: the format to write; default each record's own.
        replace_out: whether `out` and `log` may be replaced.

    Raises:
        DataError: an unknown kind or fix, or an unreadable record without `unreadable` in `drop`.
    """
    for name in drop:
        if name not in DROPPABLE:
            raise DataError(f"cannot drop {name!r}", hint=f"one of: {', '.join(DROPPABLE)}")
    known = [*FIXES, *RECORD_FIXES, "control_token"]
    for name in fix:
        if name not in known:
            raise DataError(f"cannot fix {name!r}", hint=f"one of: {', '.join(known)}")
    files = list(paths)
    job = Job(drop=tuple(drop), fix=tuple(fix), inspector=inspector or Inspector(), format_=format_)
    with (
        tempfile.TemporaryDirectory(prefix="llamune-") as scratch,
        new_file(log or out.with_name(f"{out.name}.log.jsonl"), replace=replace_out) as lines,
    ):
        if set(drop) & set(COMPARED):
            job.compare(files, held_out, Path(scratch))
        job.log = lambda entry: lines.write(
            json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        )
        job.result.n_written = write_records(out, job.rows(files), replace=replace_out)
    return job.result


@dataclass(kw_only=True)
class Job:
    """One cleaning under way.

    Attributes:
        drop: kinds whose records are left out.
        fix: fixes, in order.
        inspector: finds the flaws of single records.
        format_: the format to write; None keeps each record's own.
        compared: says why a record, by its place among the readable ones, is dropped.
        log: takes an entry of the log.
        result: what became of the records so far.
    """

    drop: tuple[str, ...]
    fix: tuple[str, ...]
    inspector: Inspector
    format_: str | None
    compared: Callable[[int], tuple[str, str] | None] = field(default=lambda _: None)
    log: Callable[[Mapping[str, Any]], object] = field(default=lambda _: None)
    result: Cleaned = field(default_factory=Cleaned)

    def compare(
        self,
        files: Sequence[Path | DataFile],
        held_out: Sequence[Path | DataFile],
        scratch: Path,
    ) -> None:
        """Find which records are to be dropped for what they are like.

        Args:
            files: the files to clean.
            held_out: files that `overlap` compares with.
            scratch: folder for signatures, kept as long as the job.
        """
        sample = list(islice(self.mended(files), SAMPLE_RECORDS))
        signatures = Signatures(scratch, common_lines(sample))
        for batch in batches(readings(held_out)):
            signatures.add(batch)
        n_held_out = signatures.count
        for batch in batches(self.mended(files)):
            signatures.add(batch)
        signatures.close()
        likeness = Likeness(signatures, n_held_out=n_held_out)
        found = {
            "overlap": likeness.overlaps,
            "duplicate": likeness.duplicates,
            "near_duplicate": likeness.near_duplicates,
            "contradiction": likeness.contradictions,
        }
        kinds = [kind for kind in found if kind in self.drop]
        kind_of = np.full(signatures.count, len(kinds), dtype=np.uint8)
        earlier_of = np.zeros(signatures.count, dtype=np.int64)
        for number, kind in reversed(list(enumerate(kinds))):
            pairs = found[kind]()
            kind_of[pairs.later], earlier_of[pairs.later] = number, pairs.earlier

        def reason(place: int) -> tuple[str, str] | None:
            number = int(kind_of[place + n_held_out])
            if number == len(kinds):
                return None
            earlier = signatures.source(int(earlier_of[place + n_held_out]))
            return kinds[number], f"{kinds[number]} of {earlier}"

        self.compared = reason

    def mended(self, files: Sequence[Path | DataFile]) -> Iterator[Record]:
        """Yield the readable records with their fixes."""
        return (self.fixed(record)[0] for record in readings(files))

    def rows(self, files: Sequence[Path | DataFile]) -> Iterator[dict[str, Any]]:
        """Yield the fields of every record that stays.

        Raises:
            DataError: a record cannot be read and `unreadable` is not dropped.
        """
        place = -1
        for item in open_reader(files):
            self.result.n_read += 1
            if isinstance(item, Problem):
                self.leave_out_problem(item)
                continue
            place += 1
            record, fixes = self.fixed(item)
            reason = self.compared(place) or self.flaw_of(record)
            if reason:
                self.result.dropped[reason[0]] += 1
                self.write_log(record, "dropped", reason[1])
                continue
            for name in fixes:
                self.result.fixed[name] += 1
            if fixes:
                self.write_log(record, "changed", ", ".join(fixes))
            yield fields_of(record, self.format_ or record.format)

    def leave_out_problem(self, problem: Problem) -> None:
        """Drop a record that cannot be read, if that is asked for.

        Raises:
            DataError: it is not.
        """
        if "unreadable" not in self.drop:
            raise DataError(str(problem), hint="add `--drop unreadable` to go on without it")
        self.result.dropped["unreadable"] += 1
        self.log(
            {
                "file": problem.source.path,
                "record": problem.source.number,
                "line": problem.source.line,
                "action": "dropped",
                "reason": f"unreadable: {problem.field or 'record'}: {problem.reason}",
            }
        )

    def write_log(self, record: Record, action: str, reason: str) -> None:
        """Write one entry of the log."""
        self.log(
            {
                "file": record.source.path,
                "record": record.source.number,
                "line": record.source.line,
                "action": action,
                "reason": reason,
            }
        )

    def flaw_of(self, record: Record) -> tuple[str, str] | None:
        """Return why a record is dropped for itself, if it is."""
        for flaw in self.inspector.flaws(record):
            if flaw.kind in self.drop:
                return flaw.kind, f"{flaw.kind}: {flaw.field}: {flaw.detail}"
        limit, unit = self.inspector.limit, self.inspector.unit
        if not {"too_long", "unreadable"} & set(self.drop):
            return None
        try:
            length = self.inspector.length(record)
        except LlamuneError as error:
            return (
                ("unreadable", f"unreadable: {error.message}")
                if "unreadable" in self.drop
                else None
            )
        if "too_long" in self.drop and limit and length > limit and record.text is None:
            return "too_long", f"too_long: {length} {unit}, the limit is {limit}"
        return None

    def fixed(self, record: Record) -> tuple[Record, list[str]]:
        """Return a record with its fixes, and the names of those that changed something."""
        changed = []
        for name in self.fix:
            if name in RECORD_FIXES:
                after = RECORD_FIXES[name](record)
            else:
                after = with_texts(record, FIXES.get(name) or self.without_control_tokens)
            if after != record:
                changed.append(name)
            record = after
        return record, changed

    def without_control_tokens(self, text: str) -> str:
        """Remove what would become a control token."""
        return self.inspector.pattern.sub("", text)


def readings(files: Sequence[Path | DataFile]) -> Iterator[Record]:
    """Yield the readable records of files."""
    return (item for item in open_reader(files) if isinstance(item, Record))


def with_texts(record: Record, mend: Callable[[str], str]) -> Record:
    """Return a record with every text mended."""

    def mended(turns: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(replace(turn, content=mend(turn.content)) for turn in turns)

    return replace(
        record,
        messages=mended(record.messages),
        rejected=mended(record.rejected),
        text=None if record.text is None else mend(record.text),
        given=mend(record.given),
    )
