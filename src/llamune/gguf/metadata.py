"""The metadata of a model file: numbers and texts at once, big arrays only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from llamune.gguf.cursor import Cursor
from llamune.gguf.errors import GgufError, MissingKey
from llamune.gguf.header import MAX_STRING_BYTES, Slot
from llamune.gguf.source import Source
from llamune.gguf.values import SCALARS, Entry, ValueType, decode_strings

__all__ = ["Metadata"]

ARRAY_HEADER_BYTES = 12
REQUIRED: Any = object()


class Metadata(Mapping[str, Any]):
    """Metadata key → value, in file order; each value is read from the file when asked for.

    Args:
        source: the opened file.
        slots: where each value lies.
    """

    def __init__(self, source: Source, slots: dict[str, Slot]) -> None:
        self._source = source
        self._slots = slots

    def __getitem__(self, key: str) -> Any:
        return self.entry(key).value

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    def _slot(self, key: str) -> Slot:
        slot = self._slots.get(key)
        if slot is None:
            raise MissingKey(self._source.path, key)
        return slot

    def _wrong(self, key: str, wanted: str) -> GgufError:
        slot = self._slots[key]
        found = slot.value_type.name
        if slot.element_type is not None:
            found = f"array of {slot.element_type.name}"
        return GgufError(
            self._source.path,
            rule="value type",
            problem=f"metadata key {key!r} is {found}, {wanted} is needed",
            offset=slot.value_start,
        )

    def entry(self, key: str) -> Entry:
        """Return a value as it lies in the file, to be written again byte for byte.

        Raises:
            MissingKey: there is no such key.
            GgufError: the file has changed.
        """
        slot = self._slot(key)
        raw = self._source.read(slot.value_start, slot.end - slot.value_start)
        return Entry(slot.value_type, raw)

    def span(self, key: str) -> tuple[int, int]:
        """Return the position of a key with its value, and the bytes both take."""
        slot = self._slot(key)
        return slot.start, slot.end - slot.start

    def value_type(self, key: str) -> ValueType:
        """Return the type of a value."""
        return self._slot(key).value_type

    def element_type(self, key: str) -> ValueType | None:
        """Return the type of an array's elements; None for a single value."""
        return self._slot(key).element_type

    def length(self, key: str) -> int:
        """Return the number of an array's elements, without reading them; 1 for a single value."""
        return self._slot(key).count

    def integer(self, key: str, *, default: int = REQUIRED) -> int:
        """Return a whole number, stored with any width.

        Raises:
            MissingKey: there is no such key and no default.
            GgufError: it is not a whole number.
        """
        if default is not REQUIRED and key not in self:
            return default
        slot = self._slot(key)
        dtype = SCALARS.get(slot.value_type)
        if dtype is None or dtype.kind not in "iu":
            raise self._wrong(key, "a whole number")
        return int(self[key])

    def number(self, key: str, *, default: float = REQUIRED) -> float:
        """Return a number, whole or not.

        Raises:
            MissingKey: there is no such key and no default.
            GgufError: it is not a number.
        """
        if default is not REQUIRED and key not in self:
            return default
        slot = self._slot(key)
        dtype = SCALARS.get(slot.value_type)
        if dtype is None or dtype.kind not in "iuf":
            raise self._wrong(key, "a number")
        return float(self[key])

    def flag(self, key: str, *, default: bool = REQUIRED) -> bool:
        """Return a flag.

        Raises:
            MissingKey: there is no such key and no default.
            GgufError: it is not a flag.
        """
        if default is not REQUIRED and key not in self:
            return default
        if self._slot(key).value_type is not ValueType.BOOL:
            raise self._wrong(key, "a flag")
        return bool(self[key])

    def text(self, key: str, *, default: str = REQUIRED) -> str:
        """Return a text; bytes that are not UTF-8 are replaced.

        Raises:
            MissingKey: there is no such key and no default.
            GgufError: it is not a text.
        """
        if default is not REQUIRED and key not in self:
            return default
        if self._slot(key).value_type is not ValueType.STRING:
            raise self._wrong(key, "a text")
        return str(self[key])

    def byte_strings(self, key: str) -> list[bytes]:
        """Return an array of texts as they lie in the file.

        Raises:
            MissingKey: there is no such key.
            GgufError: it is not an array of texts.
        """
        slot = self._slot(key)
        if slot.element_type is not ValueType.STRING:
            raise self._wrong(key, "an array of texts")
        return decode_strings(self._body(slot), slot.count)

    def strings(self, key: str) -> list[str]:
        """Return an array of texts; bytes that are not UTF-8 are replaced.

        Raises:
            MissingKey: there is no such key.
            GgufError: it is not an array of texts.
        """
        return [text.decode("utf-8", errors="replace") for text in self.byte_strings(key)]

    def strings_at(self, key: str, places: Iterable[int]) -> dict[int, str]:
        """Return some of an array's texts by their places; the others are passed over unread.

        Places that the array does not have are left out.

        Raises:
            MissingKey: there is no such key.
            GgufError: it is not an array of texts, or the file has changed.
        """
        slot = self._slot(key)
        if slot.element_type is not ValueType.STRING:
            raise self._wrong(key, "an array of texts")
        cursor = Cursor(self._source)
        cursor.skip(slot.value_start + ARRAY_HEADER_BYTES, "the header")
        what = f"an element of {key}"
        found, position = {}, 0
        for place in sorted({place for place in places if 0 <= place < slot.count}):
            cursor.skip_strings(place - position, what, max_bytes=MAX_STRING_BYTES)
            raw = cursor.string(what, max_bytes=MAX_STRING_BYTES)
            found[place] = raw.decode("utf-8", errors="replace")
            position = place + 1
        return found

    def array(self, key: str) -> np.ndarray[Any, Any]:
        """Return an array of numbers or flags, shape (n,), read-only.

        Raises:
            MissingKey: there is no such key.
            GgufError: it is not an array of numbers or flags.
        """
        slot = self._slot(key)
        if slot.element_type is None or slot.element_type is ValueType.STRING:
            raise self._wrong(key, "an array of numbers")
        return np.frombuffer(self._body(slot), SCALARS[slot.element_type], slot.count)

    def _body(self, slot: Slot) -> bytes:
        """Return an array's elements without its header."""
        start = slot.value_start + ARRAY_HEADER_BYTES
        return self._source.read(start, slot.end - start)
