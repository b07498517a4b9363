"""From a file to decoded values, one at a time: JSON, JSON Lines, tables, Arrow, plain text.

What a file is, its own bytes say; its name does not matter.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from llamune.data.encodings import SAMPLE_BYTES, encoding_of
from llamune.data.errors import DataError
from llamune.data.jsonrows import Row, is_json, json_rows, jsonl_rows
from llamune.data.tabular import arrow_rows, delimiter_of, parquet_rows, table_rows, text_rows

__all__ = ["Opened", "open_rows"]

TABLES = ("csv", "tsv")
READ_BYTES = 1 << 18
FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
    b"\x7fELF": "a program",
    b"SQLite format 3": "an SQLite database",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"GGUF": "a model file",
    b"\x89PNG": "a picture",
}


@dataclass(frozen=True)
class Opened:
    """An open data file.

    Attributes:
        rows: its records, in order, read as they are asked for.
        container: `json`, `jsonl`, `csv`, `tsv`, `parquet`, `arrow` or `text`.
        encoding: Python's name of the text encoding; empty for binary formats.
        compression: `gzip`, `zstd` or empty.
        position: returns how many bytes of the file have been read.
    """

    rows: Iterator[Row]
    container: str
    encoding: str
    compression: str
    position: Callable[[], int] = lambda: 0


@contextmanager
def open_rows(path: Path) -> Iterator[Opened]:
    """Open a data file of any kind.

    Raises:
        DataError: it is none that we read, is cut, or is damaged.
        OSError: it cannot be opened.
    """
    with path.open("rb") as raw:
        stream, compression = unpacked(raw, path)
        try:
            yield replace(opened(stream, path, compression), position=raw.tell)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise DataError(f"{compression} data is cut or damaged: {error}", path=path) from None
        except UnicodeError as error:
            raise DataError(f"cut or damaged text: {error}", path=path) from None


def opened(stream: BinaryIO, path: Path, compression: str) -> Opened:
    """Tell a file's kind by its first bytes and return its rows."""
    sample = read_fully(stream, SAMPLE_BYTES)
    for mark, name in FOREIGN.items():
        if sample.startswith(mark):
            raise DataError(f"{name}, not a data file", path=path)
    if sample.startswith(b"PAR1"):
        return Opened(parquet_rows(path, compression), "parquet", "", compression)
    if sample.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return Opened(arrow_rows(path, sample, compression), "arrow", "", compression)
    if not sample.strip():
        raise DataError("empty: no record in it", path=path)
    try:
        encoding = encoding_of(sample, whole=len(sample) < SAMPLE_BYTES)
    except DataError as error:
        raise DataError(error.message, path=path, hint=error.hint) from None
    joined = cast(BinaryIO, io.BufferedReader(Joined(sample, stream)))
    head = sample.decode(encoding, errors="replace").lstrip("\ufeff")
    container = container_of(head)
    newline = "" if container in TABLES else None  # a cell may hold line ends
    text = io.TextIOWrapper(joined, encoding=encoding, errors="surrogateescape", newline=newline)
    rows = {
        "json": lambda: json_rows(text, path),
        "jsonl": lambda: jsonl_rows(text),
        "csv": lambda: table_rows(text, delimiter_of(head)),
        "tsv": lambda: table_rows(text, "\t"),
        "text": lambda: text_rows(text),
    }[container]()
    return Opened(rows, container, encoding, compression)


class Joined(io.RawIOBase):
    """A sample already read, and the stream that it came from, as one stream."""

    def __init__(self, sample: bytes, rest: BinaryIO) -> None:
        self.sample = memoryview(sample)
        self.rest = rest

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the sample first, then from the stream."""
        if self.sample:
            n = min(len(buffer), len(self.sample))
            buffer[:n], self.sample = self.sample[:n], self.sample[n:]
            return n
        found = self.rest.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class Unzstd(io.RawIOBase):
    """The bytes under zstd; the library's own reader takes a cut stream for a short one."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.frame = zstandard.ZstdDecompressor().decompressobj()
        self.ready = b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the frame at hand, or the next one.

        Raises:
            EOFError: the file ends inside a frame.
        """
        while not self.ready:
            part = self.frame.unused_data or self.raw.read(READ_BYTES)
            if not part:
                if not self.frame.eof:
                    raise EOFError("it ends too soon")
                return 0
            if self.frame.eof:
                self.frame = zstandard.ZstdDecompressor().decompressobj()
            self.ready = self.frame.decompress(part)
        n = min(len(buffer), len(self.ready))
        buffer[:n], self.ready = self.ready[:n], self.ready[n:]
        return n


def unpacked(raw: BinaryIO, path: Path) -> tuple[BinaryIO, str]:
    """Return the stream under a compression, and the compression's name."""
    magic = raw.read(4)
    raw.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(filename=path.name, fileobj=raw)), "gzip"
    if magic == b"\x28\xb5\x2f\xfd":
        return cast(BinaryIO, io.BufferedReader(Unzstd(raw))), "zstd"
    return raw, ""


def read_fully(stream: BinaryIO, n_bytes: int) -> bytes:
    """Return `n_bytes`, or what is left where that is less."""
    parts = []
    while n_bytes and (part := stream.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def container_of(head: str) -> str:
    """Tell which text format a file begins as."""
    start = head.lstrip()
    if start.startswith("{"):
        first = start.partition("\n")[0].rstrip()
        return "jsonl" if is_json(first) or not first.endswith(("{", ",", "[")) else "json"
    if start.startswith(("[", "//", "/*")):
        return "json"
    delimiter = delimiter_of(head)
    if delimiter:
        return "tsv" if delimiter == "\t" else "csv"
    return "text"
