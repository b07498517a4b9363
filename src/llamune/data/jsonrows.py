"""JSON and JSON Lines, value by value, with the line of each.

Nothing is held but the value at hand, save for JSON with comments, which is read whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from llamune.data.errors import DataError
from llamune.data.lenient import blank_out

__all__ = [
    "LONGEST_RECORD_CHARACTERS",
    "Row",
    "bounded_lines",
    "damage",
    "is_json",
    "json_rows",
    "jsonl_rows",
]

CHUNK_CHARACTERS = 1 << 20
LONGEST_RECORD_CHARACTERS = 64 << 20
LARGEST_LENIENT_CHARACTERS = 512 << 20
WRAPPERS = {"data", "train", "examples", "records", "rows", "items"}


@dataclass(frozen=True)
class Row:
    """One decoded value, or why there is none.

    Attributes:
        value: what the record holds.
        line: the line it starts on, counted from 1.
        reason: why it could not be decoded; empty when it could.
    """

    value: Any
    line: int | None
    reason: str = ""


def is_json(text: str) -> bool:
    """Tell whether a text is one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def jsonl_rows(text: TextIO) -> Iterator[Row]:
    """Yield the value of each line; a line that is no JSON is a row with a reason."""
    for number, line in enumerate(bounded_lines(text), start=1):
        if not line.strip():
            continue
        if len(line) > LONGEST_RECORD_CHARACTERS:
            yield Row(None, number, f"longer than {LONGEST_RECORD_CHARACTERS:,} characters")
            continue
        if not line.isascii() and (reason := damage(line)):
            yield Row(None, number, reason)
            continue
        try:
            value = json.loads(line)
        except RecursionError:
            yield Row(None, number, "nested too deep")
        except ValueError as error:
            yield Row(None, number, json_reason(error))
        else:
            yield from elements(value, number)


def bounded_lines(text: TextIO) -> Iterator[str]:
    """Yield lines; of one that is too long a little more than the limit, the rest is skipped.

    A small compressed file can unpack to one line that no memory holds.
    """
    while line := text.readline(LONGEST_RECORD_CHARACTERS + 1):
        yield line
        while len(line) > LONGEST_RECORD_CHARACTERS and not line.endswith("\n"):
            line = text.readline(LONGEST_RECORD_CHARACTERS + 1)


def damage(text: str) -> str:
    """Say which byte of a text could not be decoded; empty when all could."""
    for character in text:
        if "\udc80" <= character <= "\udcff":
            return f"byte 0x{ord(character) - 0xDC00:02X} does not fit the file's encoding"
    return ""


def json_reason(error: ValueError) -> str:
    """Return what is wrong with a JSON text, in one line."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    return f"not JSON: {error}"


def json_rows(text: TextIO, path: Path) -> Iterator[Row]:
    """Yield the records of a JSON array, of objects in a row, or of an object that holds a list.

    Falls back to the lenient reading at the first fault.
    """
    n_given = 0
    parts: list[str] = []
    n_kept = 0

    def read() -> str:
        nonlocal n_kept
        part = text.read(CHUNK_CHARACTERS)
        n_kept += len(part)
        if n_kept <= LARGEST_LENIENT_CHARACTERS:
            parts.append(part)
        else:
            parts.clear()
        return part

    try:
        for row in Values(read).rows():
            yield row
            n_given += 1
    except Broken as broken:
        while n_kept <= LARGEST_LENIENT_CHARACTERS and read():
            pass
        whole = "".join(parts)
        lenient = blank_out(whole) if whole else whole
        if lenient == whole:
            raise DataError(broken.reason, path=path, line=broken.line, hint=broken.hint) from None
        yield from again(lenient, n_given, path)


def again(lenient: str, n_given: int, path: Path) -> Iterator[Row]:
    """Yield the rows of a cleaned text after the first `n_given`."""
    whole = iter([lenient])
    try:
        for place, row in enumerate(Values(lambda: next(whole, "")).rows()):
            if place >= n_given:
                yield row
    except Broken as broken:
        raise DataError(broken.reason, path=path, line=broken.line, hint=broken.hint) from None


def elements(value: Any, line: int) -> list[Row]:
    """Return the rows of a value outside an array: the records it wraps, or itself."""
    if isinstance(value, dict):
        lists = [
            part
            for part in value.values()
            if isinstance(part, list) and part and all(isinstance(x, dict) for x in part)
        ]
        if len(lists) == 1 and any(value[name] is lists[0] for name in WRAPPERS & value.keys()):
            return [Row(element, line) for element in lists[0]]
    return [Row(value, line)]


class Broken(Exception):  # noqa: N818  passed on as a DataError
    """JSON that cannot be read on from a place."""

    def __init__(self, reason: str, line: int, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.hint = hint


class Values:
    """The JSON values of a text that comes in parts: the elements of one array, or values in a row.

    Args:
        read: returns the next part; an empty one ends the text.
    """

    def __init__(self, read: Callable[[], str]) -> None:
        self.read = read
        self.buffer = ""
        self.at = 0
        self.line = 1
        self.ended = False
        self.decoder = json.JSONDecoder()

    def rows(self) -> Iterator[Row]:
        """Yield each value with its line.

        Raises:
            Broken: the text is no JSON from some place on, or ends too soon.
        """
        in_array = self.peek() == "["
        if in_array:
            self.step()
            if self.peek() == "]":
                return
        while True:
            self.peek()
            line = self.line
            value = self.value()
            yield from [Row(value, line)] if in_array else elements(value, line)
            mark = self.peek()
            if in_array and mark == "]":
                return
            if mark == "" and not in_array:
                return
            if in_array and mark != ",":
                raise (
                    self.cut()
                    if mark == ""
                    else Broken(
                        f"not JSON: expected ',' or ']' between records, found {mark!r}", self.line
                    )
                )
            if in_array:
                self.step()

    def value(self) -> Any:
        """Return the value that starts here, reading on until it is whole."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
            except RecursionError:
                raise Broken("nested too deep", self.line) from None
            except json.JSONDecodeError as error:
                if self.ended or len(self.buffer) - self.at > LONGEST_RECORD_CHARACTERS:
                    raise self.fault(error) from None
                self.more()
                continue
            if end == len(self.buffer) and not self.ended:  # a number may go on
                self.more()
                continue
            self.advance(end)
            return value

    def fault(self, error: json.JSONDecodeError) -> Broken:
        """Return what to raise for a value that does not decode."""
        if error.pos >= len(self.buffer.rstrip()) or "Unterminated" in error.msg:
            return self.cut()
        line = self.line + self.buffer.count("\n", self.at, error.pos)
        column = error.pos - self.buffer.rfind("\n", 0, error.pos)
        return Broken(f"not JSON: {error.msg} (column {column})", line)

    def cut(self) -> Broken:
        """Return what to raise for a text that ends inside a value."""
        return Broken(
            "cut: the file ends inside a record that starts here",
            self.line,
            hint="fetch or export the file again",
        )

    def peek(self) -> str:
        """Skip blanks and return the next character; empty at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in " \t\r\n\ufeff":
                self.step()
            if self.at < len(self.buffer) or self.ended:
                return self.buffer[self.at : self.at + 1]
            self.more()

    def step(self) -> None:
        """Go one character on."""
        self.advance(self.at + 1)

    def advance(self, end: int) -> None:
        """Go on to `end`, counting lines."""
        self.line += self.buffer.count("\n", self.at, end)
        self.at = end

    def more(self) -> None:
        """Read on, at least doubling what is held of an unfinished value."""
        held = self.buffer[self.at :]
        parts = [held]
        wanted = max(CHUNK_CHARACTERS, len(held))
        while wanted > 0 and (part := self.read()):
            parts.append(part)
            wanted -= len(part)
        self.ended = wanted > 0
        self.buffer, self.at = "".join(parts), 0
