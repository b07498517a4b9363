"""Operations of a template that can make far more than goes in, and where they stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from jinja2.exceptions import SecurityError

__all__ = [
    "MAX_ITEMS",
    "MAX_OUTPUT",
    "LimitError",
    "measured",
    "refuse_growth",
    "refuse_operation",
    "refuse_range",
]

MAX_OUTPUT = 16 << 20  # characters of any text that a template makes
MAX_ITEMS = 1 << 20  # elements of a list
MAX_WIDTH = 9_999  # columns of a field
MAX_BITS = 4096  # of a whole number
# functions and filters that take a width or a count
WIDE = {
    *("batch", "center", "expandtabs", "format", "format_map", "indent", "ljust", "rjust"),
    *("slice", "truncate", "zfill"),
}

Value = TypeVar("Value")


class LimitError(SecurityError):
    """A template reached a limit."""


def measured(value: Value) -> Value:
    """Return `value` unless it is too large."""
    if isinstance(value, str | bytes) and len(value) > MAX_OUTPUT:
        raise too_long()
    if isinstance(value, list | tuple | dict) and len(value) > MAX_ITEMS:
        raise LimitError(f"it made a list of more than {MAX_ITEMS:,} elements")
    return value


def too_long() -> LimitError:
    """Return the error about a text that is too long."""
    return LimitError(f"it made a text of more than {MAX_OUTPUT:,} characters")


def refuse_range(items: range) -> range:
    """Return `items` unless there are too many."""
    if len(items) > MAX_ITEMS:
        raise LimitError(f"a range has {len(items):,} elements")
    return items


def refuse_growth(function: str, subject: Any, given: Sequence[Any]) -> None:
    """Raise if a call would make far more than goes in.

    Args:
        function: the name of the filter or method.
        subject: what it works on.
        given: its arguments.
    """
    if function in WIDE:
        refuse_widths(subject, given)
    elif function == "replace" and isinstance(subject, str) and len(given) > 1:
        old, new = given[:2]
        if isinstance(old, str) and isinstance(new, str):
            refuse_length(len(subject) + subject.count(old) * len(new))
    elif function == "join":
        refuse_join(subject, given)


def refuse_widths(subject: Any, given: Sequence[Any]) -> None:
    """Raise if a field would be absurdly wide: `center(10**9)`, `"%999999999d"|format(1)`."""
    if any(isinstance(value, int) and abs(value) > MAX_WIDTH for value in given):
        raise LimitError(f"a field may have {MAX_WIDTH:,} columns at most")
    if isinstance(subject, str):
        refuse_format(subject)


def refuse_format(text: str) -> None:
    """Raise if a text, read as a format, names a width of five digits or more."""
    n_digits = 0
    for character in text:
        n_digits = n_digits + 1 if character.isdigit() else 0
        if n_digits > len(str(MAX_WIDTH)):
            raise LimitError(f"a field may have {MAX_WIDTH:,} columns at most")


def refuse_join(subject: Any, given: Sequence[Any]) -> None:
    """Raise if the separators of a joined text alone would be too long."""
    if isinstance(subject, str) and given and isinstance(given[0], list | tuple | dict):
        separator, items = subject, given[0]  # the method: separator.join(items)
    else:
        separator, items = (given[0] if given else ""), subject
    if isinstance(separator, str) and isinstance(items, str | list | tuple | dict):
        longest = max((len(item) for item in items if isinstance(item, str)), default=0)
        refuse_length(len(items) * len(separator))
        if len(items) * longest > MAX_OUTPUT:
            refuse_length(sum(len(item) for item in items if isinstance(item, str)))


def refuse_operation(operator: str, left: Any, right: Any) -> None:
    """Raise if an operation would make far more than goes in."""
    if operator == "*":
        refuse_product(left, right)
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int):
            refuse_bits(left.bit_length() * max(right, 0))
    elif operator == "%" and isinstance(left, str):
        given = right if isinstance(right, tuple) else (right,)
        refuse_widths(left, given if "*" in left else ())
    elif operator == "+" and isinstance(left, str | list | tuple):
        refuse_length(len(left) + (len(right) if isinstance(right, str | list | tuple) else 0))


def refuse_product(left: Any, right: Any) -> None:
    """Raise if a repeated text or a number would be too large."""
    if isinstance(left, int) and isinstance(right, int):
        refuse_bits(left.bit_length() + right.bit_length())
        return
    many, sequence = (left, right) if isinstance(left, int) else (right, left)
    if isinstance(many, int) and isinstance(sequence, str | bytes | list | tuple):
        refuse_length(len(sequence) * max(many, 0))


def refuse_length(n_characters: int) -> None:
    """Raise if a text or list would be too long."""
    if n_characters > MAX_OUTPUT:
        raise too_long()


def refuse_bits(n_bits: int) -> None:
    """Raise if a whole number would be too large."""
    if n_bits > MAX_BITS:
        raise LimitError("it worked out a number of more than a thousand digits")
