"""Data files to data files: splitting and converting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamune.data.errors import DataError
from llamune.data.reading import DataFile, open_reader
from llamune.data.records import Record
from llamune.data.similar import groups_of
from llamune.data.splitting import split
from llamune.data.writing import fields_of, write_records
from llamune.files import new_folder

__all__ = ["convert", "nth_record", "split_files"]


def convert(
    paths: Iterable[Path | DataFile],
    out: Path,
    *,
    to: str,
    chosen: bool = False,
    replace: bool = False,
) -> int:
    """Write data files in another format and return the number of records.

    Args:
        paths: files and folders to read.
        out: the new file; its name says which kind.
        to: the format's name.
        chosen: whether preference pairs give their better answer as a conversation.
        replace: whether `out` may be replaced.

    Raises:
        DataError: a record cannot be read, or the format cannot hold it.
    """
    return write_records(out, converted(paths, to, chosen=chosen), replace=replace)


def converted(
    paths: Iterable[Path | DataFile], to: str, *, chosen: bool
) -> Iterator[dict[str, Any]]:
    """Yield the fields of each record in another format.

    Raises:
        DataError: a record cannot be read, or the format cannot hold it.
    """
    for item in open_reader(paths):
        if not isinstance(item, Record):
            raise DataError(str(item), hint="`llamune data clean --drop unreadable` leaves it out")
        yield fields_of(replace(item, rejected=()) if chosen else item, to)


def split_files(
    records: Sequence[Record],
    folder: Path,
    *,
    validation: float,
    test: float = 0.0,
    seed: int = 0,
) -> dict[Path, int]:
    """Write `train.jsonl`, `valid.jsonl` and, where asked, `test.jsonl` into a new folder.

    Args:
        records: what to part; records that are alike stay on one side.
        folder: the new folder.
        validation: share set aside for validation.
        test: share set aside for a test file.
        seed: decides which records.

    Returns:
        Each file with its number of records.

    Raises:
        DataError: the shares are out of range, or a side would be empty.
        LlamuneError: the folder exists.
    """
    if validation + test >= 1:
        raise DataError(f"validation {validation} and test {test} leave nothing to train on")
    groups = groups_of(records)
    numbers = {id(record): group for record, group in zip(records, groups, strict=True)}
    training, rest = split(records, validation=validation + test, seed=seed, groups=groups)
    sides = {"train": training, "valid": rest}
    if test:
        sides["valid"], sides["test"] = split(
            rest,
            validation=test / (validation + test),
            seed=seed + 1,
            groups=[numbers[id(record)] for record in rest],
        )
    with new_folder(folder) as scratch:
        for name, side in sides.items():
            rows = (fields_of(record, record.format) for record in side)
            write_records(scratch / f"{name}.jsonl", rows)
    return {folder / f"{name}.jsonl": len(side) for name, side in sides.items()}


def nth_record(paths: Iterable[Path | DataFile], number: int) -> Record:
    """Return one record, counted from 1 over all files, bad ones included.

    Raises:
        DataError: it cannot be read, or there are not so many.
    """
    seen = 0
    for item in open_reader(paths):
        seen += 1
        if seen == number:
            if isinstance(item, Record):
                return item
            raise DataError(str(item))
    raise DataError(f"no record {number}: there are {seen}")
