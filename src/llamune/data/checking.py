"""The check of data files: one pass over the records, then the comparison of all with all."""

from __future__ import annotations

import re
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np

from llamune.data.answers import Template
from llamune.data.characters import (
    control_characters,
    control_pattern,
    control_tokens,
    html_residue,
    mojibake,
)
from llamune.data.errors import DataError
from llamune.data.findings import KINDS, Example, Finding, Flaw
from llamune.data.languages import foreign_answers, language_of
from llamune.data.personal import personal_data
from llamune.data.reading import DataFile, Reader, no_record, open_reader
from llamune.data.records import Problem, Record, Source
from llamune.data.rendering import Tokens
from llamune.data.report import PURPOSES, Lengths, Report, by_severity
from llamune.data.signatures import Signatures, common_lines
from llamune.data.similar import BATCH_RECORDS, SAMPLE_RECORDS, Likeness, Pairs
from llamune.data.wording import cut_answers, empty_answers, refusals
from llamune.errors import LlamuneError

__all__ = ["Inspector", "check"]

N_EXAMPLES = 5
SOURCE_SHARE = 0.9
LENGTH_RATIO = 20
ASK_THE_MODEL = {"too_long", "unreadable", "control_token"}


@dataclass(frozen=True, kw_only=True)
class Inspector:
    """Finds the flaws that one record shows by itself.

    Attributes:
        tokenizer: the model's tokenizer; without one lengths are in characters.
        template: the model's chat template.
        limit: tokens that a record may have.
    """

    tokenizer: Tokens | None = None
    template: Template | None = None
    limit: int | None = None
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        tokens = self.tokenizer
        own = [] if tokens is None else [tokens.piece(token) for token in tokens.control_ids]
        object.__setattr__(self, "pattern", control_pattern(own))

    @classmethod
    def of(
        cls,
        tokenizer: Tokens | None,
        template: Template | None,
        *,
        max_length: int | None = None,
        context_length: int | None = None,
    ) -> Inspector:
        """Return an inspector whose limit is the smaller of two; none without a tokenizer.

        Args:
            tokenizer: the model's tokenizer.
            template: the model's chat template.
            max_length: tokens that were asked for.
            context_length: tokens that the model was made for.
        """
        limits = [limit for limit in (max_length, context_length) if limit]
        limit = min(limits) if limits and tokenizer is not None else None
        return cls(tokenizer=tokenizer, template=template, limit=limit)

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        return "characters" if self.tokenizer is None else "tokens"

    def flaws(self, record: Record) -> Iterator[Flaw]:
        """Yield what is wrong with a record's words."""
        yield from empty_answers(record)
        yield from cut_answers(record)
        yield from refusals(record)
        yield from mojibake(record)
        yield from control_characters(record)
        yield from control_tokens(record, self.pattern)
        yield from html_residue(record)
        yield from personal_data(record)
        yield from foreign_answers(record)

    def length(self, record: Record) -> int:
        """Return how long a record is, through the template where there is one.

        Raises:
            LlamuneError: the template refuses the record.
        """
        if self.tokenizer is None:
            return len(record.whole)
        if record.text is not None or self.template is None:
            return len(self.tokenizer.encode(record.whole, parse_special=False))
        messages = [message.for_template() for message in record.messages]
        tools = [dict(tool) for tool in record.tools] or None
        return len(self.tokenizer.encode(self.template.render(messages, tools=tools)))


@dataclass
class Tally:
    """What the pass over the records gathers.

    Attributes:
        counts: records with a flaw of each kind.
        examples: the first few of each kind.
        flawed: one byte a record, 1 for an error or a warning.
        lengths: one length a record.
        languages: records by the language of their answer.
        sources: records by file.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    flawed: bytearray = field(default_factory=bytearray)
    lengths: array[int] = field(default_factory=lambda: array("q"))
    languages: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def note(self, kind: str, source: Source, detail: str) -> None:
        """Count a record under a kind and keep it if it is one of the first."""
        self.counts[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < N_EXAMPLES:
            kept.append(Example(source=source, detail=detail))

    def see(self, record: Record, inspector: Inspector) -> None:
        """Inspect one record."""
        flaws: dict[str, Flaw] = {}
        for flaw in inspector.flaws(record):
            flaws.setdefault(flaw.kind, flaw)
        try:
            length = inspector.length(record)
        except LlamuneError as error:
            length = 0
            flaws["unreadable"] = Flaw(kind="unreadable", field="", detail=error.message)
        self.lengths.append(length)
        if inspector.limit and length > inspector.limit and record.text is None:
            detail = f"{length} {inspector.unit}, the limit is {inspector.limit}"
            flaws["too_long"] = Flaw(kind="too_long", field="", detail=detail)
        for flaw in flaws.values():
            where = f"{flaw.field}: " if flaw.field else ""
            self.note(flaw.kind, record.source, f"{where}{flaw.detail}")
        self.flawed.append(any(KINDS[kind].severity != "note" for kind in flaws))
        self.languages[language_of(record.answer)] += 1
        self.sources[record.source.path] += 1


def check(
    paths: Iterable[Path | DataFile],
    *,
    tokenizer: Tokens | None = None,
    template: Template | None = None,
    max_length: int | None = None,
    context_length: int | None = None,
    held_out: Sequence[Path | DataFile] = (),
    purpose: str = "",
    model: str = "",
    scratch: Path | None = None,
    advance: Callable[[int], object] | None = None,
) -> Report:
    """Check data files as a reviewer would.

    Args:
        paths: files and folders of training data.
        tokenizer: the model's tokenizer, to count tokens with.
        template: the model's chat template, to render records through.
        max_length: tokens that a record may have; default the context.
        context_length: tokens that the model was made for.
        held_out: validation and test files that the data must not overlap; default the other
            splits of a folder.
        purpose: what the data is for, a key of `PURPOSES`.
        model: the model's name, for the report.
        scratch: folder for signatures; default the system's.
        advance: called now and then with the number of bytes just read.

    Raises:
        DataError: a file cannot be read, holds no readable record, or the purpose is unknown.
    """
    if purpose and purpose not in PURPOSES:
        raise DataError(f"purpose {purpose!r}: one of {', '.join(PURPOSES)}")
    started = time.monotonic()
    inspector = Inspector.of(
        tokenizer, template, max_length=max_length, context_length=context_length
    )
    reader = open_reader(paths)
    reader.advance = advance or reader.advance
    held_out = held_out or reader.left_out
    tally = Tally()
    mender = Mender(files=reader.files, held_out=held_out, model=model, max_length=max_length)
    with tempfile.TemporaryDirectory(prefix="llamune-", dir=scratch) as folder:
        signatures, n_held_out = surveyed(
            reader, tally, inspector, held_out=held_out, folder=Path(folder)
        )
        likeness = Likeness(signatures, n_held_out=n_held_out)
        findings = compared_findings(likeness, tally, mender)
    lengths = np.asarray(tally.lengths, dtype=np.int64)
    findings += single_findings(tally, mender)
    findings += balance(tally, lengths, inspector) + amount(reader.n_records, purpose)
    ordered = by_severity(findings)
    return Report(
        files=reader.described(),
        formats=dict(reader.formats.most_common()),
        n_records=reader.n_records,
        n_unreadable=reader.n_problems,
        n_flawed=sum(tally.flawed),
        lengths=Lengths.of(lengths, unit=inspector.unit, limit=inspector.limit),
        languages=dict(tally.languages.most_common()),
        sources=dict(tally.sources),
        findings=ordered,
        fix=mender.command([finding.kind for finding in ordered]),
        notes=tuple(reader.notes),
        purpose=purpose,
        model=model,
        template=template is not None,
        seconds=time.monotonic() - started,
    )


def surveyed(
    reader: Reader,
    tally: Tally,
    inspector: Inspector,
    *,
    held_out: Sequence[Path | DataFile],
    folder: Path,
) -> tuple[Signatures, int]:
    """Read every record once: held-out ones for their signatures, the others for all.

    Returns:
        The signatures, held-out records first, and how many of those there are.

    Raises:
        DataError: there is no readable record.
    """
    stream = readable(reader, tally)
    sample = list(islice(stream, SAMPLE_RECORDS))
    if not sample:
        raise no_record(
            reader.files,
            [
                Problem(source=example.source, field="", reason=example.detail)
                for example in tally.examples.get("unreadable", [])[:1]
            ],
        )
    signatures = Signatures(folder, common_lines(sample))
    try:
        for batch in batches(readable(open_reader(held_out), Tally())):
            signatures.add(batch)
        n_held_out = signatures.count
        for batch in batches(chain(sample, stream)):
            for record in batch:
                tally.see(record, inspector)
            signatures.add(batch)
    finally:
        signatures.close()
    return signatures, n_held_out


def readable(reader: Reader, tally: Tally) -> Iterator[Record]:
    """Yield the records that can be read; note the others."""
    for item in reader:
        if isinstance(item, Record):
            yield item
        else:
            where = f"{item.field}: " if item.field else ""
            tally.note("unreadable", item.source, f"{where}{item.reason}")


def batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Yield records in lists of `BATCH_RECORDS`."""
    while batch := list(islice(records, BATCH_RECORDS)):
        yield batch


def single_findings(tally: Tally, mender: Mender) -> list[Finding]:
    """Return what single records showed by themselves."""
    return [
        Finding(
            kind=kind,
            count=count,
            examples=tuple(tally.examples[kind]),
            fix=mender.command([kind]),
        )
        for kind, count in tally.counts.items()
        if KINDS[kind].per_record
    ]


def compared_findings(likeness: Likeness, tally: Tally, mender: Mender) -> list[Finding]:
    """Return what the comparison of all records with each other found."""
    found: Mapping[str, Pairs] = {
        "duplicate": likeness.duplicates(),
        "near_duplicate": likeness.near_duplicates(),
        "contradiction": likeness.contradictions(),
        **({"overlap": likeness.overlaps()} if mender.held_out else {}),
    }
    findings = []
    flawed = np.frombuffer(tally.flawed, dtype=np.uint8)
    for kind, pairs in found.items():
        if len(pairs):
            flawed[pairs.later - likeness.n_held_out] = 1
            n_shown = min(N_EXAMPLES, len(pairs))
            examples = tuple(pair_example(kind, pairs, at, likeness) for at in range(n_shown))
            fix = mender.command([kind])
            findings.append(Finding(kind=kind, count=len(pairs), examples=examples, fix=fix))
    return findings


def pair_example(kind: str, pairs: Pairs, at: int, likeness: Likeness) -> Example:
    """Return the example that a pair of records gives."""
    earlier = likeness.signatures.source(int(pairs.earlier[at]))
    said = {
        "duplicate": f"the same as {earlier}",
        "contradiction": f"the question of {earlier}, another answer",
    }.get(kind, f"like {earlier} ({pairs.likeness[at]:.0%})")
    return Example(source=likeness.signatures.source(int(pairs.later[at])), detail=said)


@dataclass(frozen=True, kw_only=True)
class Mender:
    """Writes the command that mends findings.

    Attributes:
        files: the files that were checked.
        held_out: the files that they must not overlap.
        model: the model's name; empty for none.
        max_length: tokens that were asked for; None for the model's context.
    """

    files: Sequence[DataFile]
    held_out: Sequence[Path | DataFile]
    model: str
    max_length: int | None

    def command(self, kinds: Iterable[str]) -> str:
        """Return the one command that mends these kinds; empty where none can be."""
        options: dict[str, list[str]] = {}
        for kind in kinds:
            if KINDS[kind].fix:
                option, name = KINDS[kind].fix.split()
                options.setdefault(option, []).append(name)
        if not options:
            return ""
        names = {name for given in options.values() for name in given}
        words = ["llamune data clean", *(str(file.path) for file in self.files[:3])]
        words += [f"{option} {','.join(given)}" for option, given in options.items()]
        if "overlap" in names:
            paths = [path.path if isinstance(path, DataFile) else path for path in self.held_out]
            words += [f"--held-out {path}" for path in paths]
        if self.model and names & ASK_THE_MODEL:
            words.append(f"--model {self.model}")
        if self.max_length and "too_long" in names:
            words.append(f"--max-length {self.max_length}")
        return " ".join([*words, "--out NEW"])


def balance(tally: Tally, lengths: np.ndarray, inspector: Inspector) -> list[Finding]:
    """Return a finding where few records, or one file, make most of the data."""
    said = []
    n_records = len(lengths)
    if len(tally.sources) > 1:
        path, count = tally.sources.most_common(1)[0]
        if count > SOURCE_SHARE * n_records:
            said.append(f"{count / n_records:.0%} of the records come from {path}")
    if n_records >= 20:
        top = np.sort(lengths)[::-1][: max(1, n_records // 100)]
        ratio = top[-1] / max(1.0, float(np.median(lengths)))
        if ratio > LENGTH_RATIO:
            share = top.sum() / max(1, lengths.sum())
            said.append(f"the longest 1 % of the records hold {share:.0%} of all {inspector.unit}")
    return [Finding(kind="imbalance", count=n_records, summary="; ".join(said))] if said else []


def amount(n_records: int, purpose: str) -> list[Finding]:
    """Return a finding where there are fewer records than a purpose asks for."""
    if not purpose:
        return []
    low, high = PURPOSES[purpose]
    if n_records >= low:
        return []
    summary = f"{n_records:,} records; {purpose} asks for {low:,} to {high:,}"
    return [Finding(kind="too_few", count=n_records, summary=summary)]
