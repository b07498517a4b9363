"""Tables, plain text, Parquet and Arrow, row by row."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from llamune.data.errors import DataError
from llamune.data.jsonrows import LONGEST_RECORD_CHARACTERS, Row, bounded_lines, damage, is_json

__all__ = ["arrow_rows", "delimiter_of", "parquet_rows", "table_rows", "text_rows"]

BATCH_ROWS = 1024
PIECE_CHARACTERS = 4000
DELIMITERS = ",\t;"
COLUMNS = {
    "instruction",
    "output",
    "response",
    "messages",
    "conversations",
    "prompt",
    "completion",
    "question",
    "answer",
    "chosen",
    "rejected",
    "text",
}
ENOUGH = {"messages", "conversations", "text"}
NAME = re.compile(r"^[\w .-]{1,40}$")
JSON_COLUMNS = ("messages", "conversations", "tools", "history", "chosen", "rejected", "prompt")


def delimiter_of(head: str) -> str:
    """Return what parts the columns of a table with named columns; empty for no table."""
    first = head.lstrip().splitlines()[0] if head.strip() else ""
    for delimiter in DELIMITERS:
        names = [name.strip().strip('"').lower() for name in first.split(delimiter)]
        known = COLUMNS & set(names)
        if all(map(NAME.match, names)) and (len(known) >= 2 or known & ENOUGH):
            return delimiter
    return ""


def table_rows(text: TextIO, delimiter: str) -> Iterator[Row]:
    """Yield each row of a table with named columns, its JSON cells decoded."""
    csv.field_size_limit(LONGEST_RECORD_CHARACTERS)
    reader = csv.reader(bounded_lines(text), delimiter=delimiter)
    line = 1
    try:
        names = [name.strip().lstrip("\ufeff") for name in next(reader)]
        lowered = [name.lower() if name.lower() in COLUMNS else name for name in names]
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield table_row(lowered, cells, line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"not a table: {error}", line=line) from None


def table_row(names: Sequence[str], cells: Sequence[str], line: int) -> Row:
    """Return one row of a table, or why it is none."""
    if len(cells) != len(names):
        return Row(None, line, f"{len(cells)} cells where the header names {len(names)} columns")
    if reason := damage("".join(cells)):
        return Row(None, line, reason)
    value: dict[str, Any] = dict(zip(names, cells, strict=True))
    for name in JSON_COLUMNS:
        cell = value.get(name)
        if isinstance(cell, str) and cell.lstrip().startswith(("[{", "[[")) and is_json(cell):
            value[name] = json.loads(cell)
    return Row(value, line)


def text_rows(text: TextIO) -> Iterator[Row]:
    """Yield plain text in pieces that end with a paragraph, `PIECE_CHARACTERS` or more each."""
    piece: list[str] = []
    n_characters, start = 0, 1
    for number, line in enumerate(bounded_lines(text), start=1):
        if len(line) > LONGEST_RECORD_CHARACTERS:
            reason = f"longer than {LONGEST_RECORD_CHARACTERS:,} characters"
            yield Row(None, number, reason)
            continue
        blank = not line.strip()
        if (blank and n_characters >= PIECE_CHARACTERS) or n_characters >= 4 * PIECE_CHARACTERS:
            yield text_row(piece, start)
            piece, n_characters = [], 0
        if not piece:
            start = number
        if piece or not blank:
            piece.append(line)
            n_characters += len(line)
    if piece:
        yield text_row(piece, start)


def text_row(lines: list[str], start: int) -> Row:
    """Return the row of a piece of plain text."""
    whole = "".join(lines).rstrip()
    reason = damage(whole)
    return Row(None if reason else {"text": whole}, start, reason)


def parquet_rows(path: Path, compression: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file, batch by batch."""
    if compression:
        raise DataError(f"Parquet inside {compression}: unpack it first", path=path)
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                yield from (Row(without_nulls(value), None) for value in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"Parquet is cut or damaged: {one_line(error)}", path=path) from None


def arrow_rows(path: Path, sample: bytes, compression: str) -> Iterator[Row]:
    """Yield the rows of an Arrow file or stream, as `datasets` saves them."""
    if compression:
        raise DataError(f"Arrow inside {compression}: unpack it first", path=path)
    import pyarrow
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(str(path)) as source:
            if sample.startswith(b"ARROW1"):
                reader = pyarrow.ipc.open_file(source)
                batches = (reader.get_batch(place) for place in range(reader.num_record_batches))
            else:
                batches = iter(pyarrow.ipc.open_stream(source))
            for batch in batches:
                for place in range(0, batch.num_rows, BATCH_ROWS):
                    rows = batch.slice(place, BATCH_ROWS).to_pylist()
                    yield from (Row(without_nulls(value), None) for value in rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"Arrow is cut or damaged: {one_line(error)}", path=path) from None


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without the nulls inside its lists and objects.

    Arrow gives every object of a column all fields that any of them has: a call with `city`
    would else get a `radius` of null from another row. Columns themselves stay.
    """

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: bare(inner) for name, inner in value.items() if inner is not None}
        return [bare(inner) for inner in value] if isinstance(value, list) else value

    return {name: bare(value) for name, value in row.items()}


def one_line(error: Exception) -> str:
    """Return an error's first line."""
    return (str(error) or type(error).__name__).splitlines()[0]
