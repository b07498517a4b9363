"""Files and folders to records, streamed or all at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamune.data.errors import DataError
from llamune.data.records import Problem, Record, Source
from llamune.data.rows import open_rows
from llamune.data.shapes import BadRecord, parse_record

__all__ = ["DataFile", "Reader", "Records", "data_files", "open_reader", "read_records"]

TELL_EVERY = 256
SUFFIXES = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".md"}
PACKED_SUFFIXES = {".gz", ".zst"}
NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
SPLIT = re.compile(r"(?:^|[^a-z])(train(?:ing)?|validation|valid|val|dev|eval|test)(?:[^a-z]|$)")
WEIGHT = re.compile(r"^(?P<path>.+)=(?P<weight>\d+(?:\.\d+)?)$")


@dataclass(frozen=True)
class DataFile:
    """One file to read.

    Attributes:
        path: where it is.
        weight: how many times an epoch holds each of its records.
    """

    path: Path
    weight: float = 1.0


@dataclass
class Reader:
    """Records from files, one at a time; after the last it says what it met.

    Attributes:
        files: what is read, in this order.
        formats: how many records each format had.
        encodings: the text encoding of each file, by its path.
        containers: the kind of each file, by its path.
        n_records: records read.
        n_problems: records that could not be read.
        notes: what a person should know about how the files were taken.
        left_out: files of other splits in the folders that were named.
        advance: called now and then with the number of bytes just read.
    """

    files: Sequence[DataFile]
    formats: Counter[str] = field(default_factory=Counter)
    encodings: dict[str, str] = field(default_factory=dict)
    containers: dict[str, str] = field(default_factory=dict)
    n_records: int = 0
    n_problems: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    advance: Callable[[int], object] = lambda _: None

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.path.stat().st_size for file in self.files)

    def described(self) -> tuple[Mapping[str, str], ...]:
        """Return each file read so far with its kind and encoding."""
        return tuple(
            {"path": path, "kind": self.containers[path], "encoding": encoding}
            for path, encoding in self.encodings.items()
        )

    def __iter__(self) -> Iterator[Record | Problem]:
        for file in self.files:
            yield from self.read(file)

    def read(self, file: DataFile) -> Iterator[Record | Problem]:
        """Yield the records and problems of one file.

        Raises:
            DataError: the file is none that we read, is cut or is damaged.
        """
        name = str(file.path)
        n_told = 0
        with open_rows(file.path) as opened:
            self.encodings[name] = opened.encoding
            packed = f"+{opened.compression}" if opened.compression else ""
            self.containers[name] = opened.container + packed
            for number, row in enumerate(opened.rows, start=1):
                source = Source(path=name, number=number, line=row.line)
                if number % TELL_EVERY == 0 and (position := opened.position()) > n_told:
                    self.advance(position - n_told)
                    n_told = position
                try:
                    if row.reason:
                        raise BadRecord("", row.reason)
                    record = parse_record(row.value, source, weight=file.weight)
                except BadRecord as bad:
                    self.n_problems += 1
                    yield Problem(source=source, field=bad.field, reason=bad.reason)
                    continue
                self.n_records += 1
                self.formats[record.format] += 1
                yield record
        self.advance(file.path.stat().st_size - n_told)


@dataclass(frozen=True, kw_only=True)
class Records:
    """All records of some files, in order.

    Attributes:
        records: the records that could be read.
        problems: those that could not, with the reason.
        format: the format's name; several are joined by `+`.
        encoding: the text encoding; several are joined by `+`.
        notes: what a person should know about how the files were taken.
    """

    records: list[Record]
    problems: list[Problem]
    format: str
    encoding: str
    notes: tuple[str, ...] = ()


def read_records(paths: Iterable[Path | DataFile]) -> Records:
    """Read every record of files and folders into memory.

    Raises:
        DataError: a file cannot be read, or there is no readable record at all.
    """
    reader = open_reader(paths)
    records: list[Record] = []
    problems: list[Problem] = []
    for item in reader:
        if isinstance(item, Record):
            records.append(item)
        else:
            problems.append(item)
    if not records:
        raise no_record(reader.files, problems[:1])
    return Records(
        records=records,
        problems=problems,
        format="+".join(name for name, _ in reader.formats.most_common()),
        encoding="+".join(sorted({name for name in reader.encodings.values() if name})),
        notes=tuple(reader.notes),
    )


def open_reader(paths: Iterable[Path | DataFile]) -> Reader:
    """Return a reader over files and folders; folders are looked into, files opened later."""
    files: list[DataFile] = []
    notes: list[str] = []
    left_out: list[Path] = []
    for path in paths:
        file = path if isinstance(path, DataFile) else DataFile(path)
        found, others = files_in(file.path) if file.path.is_dir() else ([file.path], [])
        files += [DataFile(inner, file.weight) for inner in found]
        left_out += others
        if others:
            names = ", ".join(str(other.relative_to(file.path)) for other in others)
            notes.append(f"{file.path}: only the training split is read; left out: {names}")
    for file in files:
        if not file.path.is_file():
            raise DataError("no such file", path=file.path)
    return Reader(files, notes=notes, left_out=left_out)


def no_record(files: Sequence[DataFile], problems: Sequence[Problem]) -> DataError:
    """Return what to raise where nothing could be read."""
    names = ", ".join(str(file.path) for file in files) or "no file"
    first = f"; the first: {problems[0]}" if problems else ""
    return DataError(
        f"no readable record{first}",
        path=names,
        hint="formats: Alpaca, ShareGPT, OpenAI messages, prompt/completion, chosen/rejected, text",
    )


def data_files(arguments: Iterable[str]) -> list[DataFile]:
    """Return the files that a person names, each `PATH` or `PATH=WEIGHT`."""
    files = []
    for argument in arguments:
        match = WEIGHT.match(argument)
        if match and not Path(argument).exists():
            files.append(DataFile(Path(match["path"]), float(match["weight"])))
        else:
            files.append(DataFile(Path(argument)))
    return files


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return a folder's data files in order, and those of other splits, which are left out.

    Where files or subfolders are named after splits, only the training split is taken.

    Raises:
        DataError: there are none.
    """
    found = sorted(
        path for path in folder.rglob("*") if path.is_file() and looks_like_data(path, folder)
    )
    if not found:
        raise DataError("no data file in this folder", path=folder)
    splits = {path: split_of(path.relative_to(folder)) for path in found}
    if "train" not in splits.values():
        return found, []
    training = [path for path in found if splits[path] == "train"]
    return training, [path for path in found if splits[path] != "train"]


def looks_like_data(path: Path, folder: Path) -> bool:
    """Tell whether a file in a folder holds records."""
    inner = path.relative_to(folder)
    if any(part.startswith(".") for part in inner.parts) or path.name in NOT_DATA:
        return False
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in PACKED_SUFFIXES:
        suffixes.pop()
    is_prose = path.stem.lower() in {"readme", "license", "licence", "notice"}
    return bool(suffixes) and suffixes[-1] in SUFFIXES and not is_prose


def split_of(inner: Path) -> str:
    """Return `train`, `other` or empty by the name of a file or of the folders above it."""
    for part in (inner.name, *reversed(inner.parent.parts)):
        if match := SPLIT.search(part.lower()):
            return "train" if match[1].startswith("train") else "other"
    return ""
