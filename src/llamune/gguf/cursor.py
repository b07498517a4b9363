"""A reading position in a header: every step is checked against the file's size."""

from __future__ import annotations

import struct

import numpy as np

from llamune.gguf.errors import GgufError
from llamune.gguf.source import Source

__all__ = ["Cursor"]

WINDOW_BYTES = 64 << 10  # in the processor's cache: a large window took three times as long
LENGTH = struct.Struct("<Q")
SHORT_LENGTH_ZEROS = 7  # a length below 256 is one byte and seven zero bytes
MAX_SLOW_STEPS = 64


class Cursor:
    """Walks through a file in windows, so that memory does not grow with the header.

    Args:
        source: the opened file.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = 0
        self.window = b""
        self.window_start = 0

    @property
    def remaining(self) -> int:
        """Bytes from here to the end of the file."""
        return self.source.size - self.position

    def error(self, rule: str, problem: str, *, offset: int | None = None) -> GgufError:
        """Return an error at `offset`, by default at the position."""
        where = self.position if offset is None else offset
        return GgufError(self.source.path, rule=rule, problem=problem, offset=where)

    def require(self, n_bytes: int, what: str) -> None:
        """Refuse a thing that would reach past the end of the file."""
        if n_bytes > self.remaining:
            raise self.error(
                "complete",
                f"{what} needs {n_bytes:,} bytes, but the file has {self.remaining:,} left",
            )

    def skip(self, n_bytes: int, what: str) -> None:
        """Go on by `n_bytes` without reading them."""
        self.require(n_bytes, what)
        self.position += n_bytes

    def take(self, n_bytes: int, what: str) -> bytes:
        """Return the next `n_bytes` and go on."""
        self.require(n_bytes, what)
        start = self.position - self.window_start
        if start < 0 or start + n_bytes > len(self.window):
            self.fill(n_bytes)
            start = 0
        self.position += n_bytes
        return self.window[start : start + n_bytes]

    def fill(self, n_bytes: int = 0) -> None:
        """Read a window that begins at the position and holds at least `n_bytes`."""
        self.window_start = self.position
        self.window = self.source.read(
            self.position, min(max(n_bytes, WINDOW_BYTES), self.remaining)
        )

    def number(self, layout: struct.Struct, what: str) -> int:
        """Return the next number of a one-field layout."""
        value: int = layout.unpack(self.take(layout.size, what))[0]
        return value

    def string(self, what: str, *, max_bytes: int) -> bytes:
        """Return the next length-prefixed string."""
        start = self.position
        length = self.number(LENGTH, what)
        self.check_length(length, what, max_bytes=max_bytes, offset=start)
        return self.take(length, what)

    def skip_string(self, what: str, *, max_bytes: int) -> None:
        """Go past the next length-prefixed string."""
        start = self.position
        length = self.number(LENGTH, what)
        self.check_length(length, what, max_bytes=max_bytes, offset=start)
        self.position += length

    def check_length(self, length: int, what: str, *, max_bytes: int, offset: int) -> None:
        """Refuse a string that is longer than the rest of the file or than allowed."""
        if length > self.remaining:
            raise self.error(
                "complete",
                f"{what} says it has {length:,} bytes, but the file has {self.remaining:,} left",
                offset=offset,
            )
        if length > max_bytes:
            raise self.error(
                "string length",
                f"{what} has {length:,} bytes; at most {max_bytes:,} are allowed",
                offset=offset,
            )

    def skip_strings(self, count: int, what: str, *, max_bytes: int) -> None:
        """Go past `count` length-prefixed strings, a window at a time.

        Raises:
            GgufError: a string reaches past the end of the file or is longer than `max_bytes`.
        """
        while count:
            if self.position + LENGTH.size > self.window_start + len(self.window):
                self.require(LENGTH.size, what)
                self.fill()
            strings = Strings(self.window, self.position - self.window_start, max_bytes=max_bytes)
            count -= strings.walk(count)
            self.position = self.window_start + strings.position
            if count:  # the next one reaches past the window, or is not allowed
                self.skip_string(what, max_bytes=max_bytes)
                count -= 1


class Strings:
    """The strings of an array that lie in a window, the short ones found all at once.

    A vocabulary is a hundred thousand strings, of which each says where the next begins: too
    many steps for an interpreter. Nearly all are short and free of zero bytes, so a length
    can be told by its seven zero bytes. Every place with seven zero bytes is taken as a
    length, and a chain of places of which each leads exactly to the next is the true one;
    where the chain breaks, single steps lead on.

    Args:
        window: bytes of the header.
        start: where the first string's length stands.
        max_bytes: the longest string allowed.
    """

    def __init__(self, window: bytes, start: int, *, max_bytes: int) -> None:
        self.window = window
        self.max_bytes = max_bytes
        self.position = start
        data = np.frombuffer(window, np.uint8)[start:]
        self.places, self.breaks = chain(data)
        self.places += start

    def walk(self, count: int) -> int:
        """Go past at most `count` strings that lie in the window; return how many.

        Stops before the first string that is too long or not wholly in the window.
        """
        done = 0
        while done < count:
            steps = self.leap(count - done)
            if not steps:
                steps = self.step(min(count - done, MAX_SLOW_STEPS))
            if not steps:
                break
            done += steps
        return done

    def leap(self, most: int) -> int:
        """Follow the chain from the position; return the number of strings passed."""
        first = int(np.searchsorted(self.places, self.position))
        if first == len(self.places) or self.places[first] != self.position:
            return 0
        end = int(self.breaks[np.searchsorted(self.breaks, first)])
        steps = min(end - first, most)
        self.position = int(self.places[first + steps])
        return steps

    def step(self, most: int) -> int:
        """Go past strings one by one; return the number of strings passed."""
        size = len(self.window)
        length_at = LENGTH.unpack_from
        position = self.position
        steps = 0
        while steps < most and position + LENGTH.size <= size:
            length = length_at(self.window, position)[0]
            if length > self.max_bytes or position + LENGTH.size + length > size:
                break
            position += LENGTH.size + length
            steps += 1
        self.position = position
        return steps


def chain(
    data: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Return the places of possible short lengths, and which of them lead nowhere.

    Args:
        data: uint8 (n,), bytes of a header.

    Returns:
        places: (m,), rising positions in `data` that seven zero bytes follow.
        breaks: rising indices into `places` of those that do not lead to the next place; the
            last place is always one.
    """
    n_places = len(data) - SHORT_LENGTH_ZEROS
    if n_places <= 0:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    zero = data == 0
    pairs = zero[1:-1] & zero[2:]  # pairs[i]: bytes i+1, i+2
    fours = pairs[:-2] & pairs[2:]  # bytes i+1 … i+4
    places = np.flatnonzero(fours[:-3] & fours[3:])
    if not len(places):
        return places, places
    following = places + data[places] + LENGTH.size
    leads_on = following[:-1] == places[1:]
    breaks = np.append(np.flatnonzero(~leads_on), len(places) - 1)
    return places, breaks
