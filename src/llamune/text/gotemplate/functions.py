"""The functions that a template may call: Go's own, and those that Ollama adds."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamune.errors import UnsupportedError
from llamune.text.errors import TemplateError
from llamune.text.gotemplate.values import Struct, TypeNames, go_json, go_text, truth

__all__ = ["FUNCTIONS", "call"]

VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d*)(?:\.(?P<precision>\d*))?(?P<verb>.)", re.DOTALL
)
TYPE_SCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def call(name: str, arguments: Sequence[Any]) -> Any:
    """Call a function.

    Raises:
        UnsupportedError: no such function here.
        TemplateError: arguments that it cannot take.
    """
    function = FUNCTIONS.get(name)
    if function is None:
        raise UnsupportedError(
            f"the template calls {name!r}, which llamune does not know",
            hint=f"known: {', '.join(sorted(FUNCTIONS))}",
        )
    try:
        return function(*arguments)
    except (TypeError, IndexError, KeyError, ValueError) as error:
        raise TemplateError(f"error calling {name}: {error}") from error


def equal(first: Any, *others: Any) -> bool:
    """Whether the first argument equals any of the others."""
    if not others:
        raise TypeError("missing argument for comparison")
    return any(same(first, other) for other in others)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal; values of different kinds cannot be compared."""
    if left is None or right is None:
        return left is right
    if kind(left) != kind(right):
        raise TypeError("incompatible types for comparison")
    if kind(left) == "other":
        raise TypeError("non-comparable type")
    return bool(left == right)


def kind(value: Any) -> str:
    """Return which values a value can be compared with."""
    for types, name in ((bool, "bool"), (str, "string"), (int, "int"), (float, "float")):
        if isinstance(value, types):
            return name
    return "other"


def ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return a comparison that refuses values without an order."""

    def compared(left: Any, right: Any) -> bool:
        if kind(left) != kind(right) or kind(left) not in {"string", "int", "float"}:
            raise TypeError("incompatible types for comparison")
        return compare(left, right)

    return compared


def length(value: Any) -> int:
    """Return the number of elements, or of a text's bytes."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | dict):
        return len(value)
    raise TypeError(f"len of {go_text(value)}")


def index(value: Any, *keys: Any) -> Any:
    """Return an element of a list or map, or of one inside it."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list):
            value = value[position(key, len(value), last=len(value) - 1)]
        elif isinstance(value, str):
            data = value.encode()
            value = data[position(key, len(data), last=len(data) - 1)]
        else:
            raise TypeError(f"can't index item of type {type(value).__name__}")
    return value


def position(key: Any, size: int, *, last: int) -> int:
    """Return a position in a list of `size` elements, checked."""
    if isinstance(key, bool) or not isinstance(key, int):
        raise TypeError(f"cannot index slice/array with type {type(key).__name__}")
    if not 0 <= key <= last:
        raise IndexError(f"index out of range: {key} of {size}")
    return key


def cut(value: Any, *bounds: int) -> Any:
    """Return a part of a list, or of a text by its bytes."""
    if not isinstance(value, str | list) or len(bounds) > 2:
        raise TypeError("can't slice item")
    whole: Any = value.encode() if isinstance(value, str) else value
    size = len(whole)
    start = position(bounds[0], size, last=size) if bounds else 0
    stop = position(bounds[1], size, last=size) if len(bounds) > 1 else size
    if start > stop:
        raise IndexError(f"invalid slice index: {start} > {stop}")
    part = whole[start:stop]
    return part.decode(errors="replace") if isinstance(value, str) else part


def show(*values: Any) -> str:
    """Return values side by side, with a space between two that are no texts."""
    parts: list[str] = []
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            parts.append(" ")
        parts.append(go_text(value, outermost=False))
    return "".join(parts)


def show_line(*values: Any) -> str:
    """Return values with a space between any two, and a line end."""
    return " ".join(go_text(value, outermost=False) for value in values) + "\n"


def formatted(pattern: str, *values: Any) -> str:
    """Return a text with its verbs replaced: `%s`, `%v`, `%d`, `%q`, `%t` and `%%`.

    Raises:
        UnsupportedError: another verb, or flags.
    """
    remaining = list(values)

    def replaced(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        if verb not in "svdqt" or match["flags"] or match["width"] or match["precision"]:
            raise UnsupportedError(f"printf with {match[0]!r} is not one that llamune knows")
        if not remaining:
            return f"%!{verb}(MISSING)"
        return show_as(verb, remaining.pop(0))

    text = VERB.sub(replaced, pattern)
    if remaining:
        extra = ", ".join(f"{go_type(value)}={go_text(value)}" for value in remaining)
        text += f"%!(EXTRA {extra})"
    return text


def show_as(verb: str, value: Any) -> str:
    """Return a value as one verb prints it."""
    fits = {
        "v": True,
        "s": not isinstance(value, bool | int | float),
        "d": isinstance(value, int) and not isinstance(value, bool),
        "t": isinstance(value, bool),
        "q": isinstance(value, str),
    }
    if value is None or not fits[verb]:
        shown = "<nil>" if value is None else f"{go_type(value)}={go_text(value)}"
        return "<nil>" if verb == "v" else f"%!{verb}({shown})"
    if verb == "q":
        return json.dumps(value, ensure_ascii=False)
    return go_text(value, outermost=False)


def go_type(value: Any) -> str:
    """Return the Go name of a simple value's type."""
    names = {bool: "bool", str: "string", int: "int", float: "float64"}
    return names.get(type(value), getattr(value, "kind", type(value).__name__))


def date(days: int) -> Callable[..., str]:
    """Return a function that gives a day as 2026-01-31, `days` from today."""

    def dated(*_: str) -> str:
        return (datetime.datetime.now() + datetime.timedelta(days=days)).strftime("%Y-%m-%d")

    return dated


def type_script(value: Any) -> str:
    """Return the TypeScript type of a tool's property, as Ollama names it."""
    if not isinstance(value, Struct) or value.kind != "ToolProperty":
        return "any"
    if value.fields["AnyOf"]:
        return " | ".join(type_script(one) for one in value.fields["AnyOf"])
    types = value.fields["Type"]
    if not isinstance(types, TypeNames) or not types:
        return "any"
    return " | ".join(TYPE_SCRIPT.get(name, "any") for name in types)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "currentDate": date(0),
    "eq": equal,
    "ge": ordered(lambda left, right: left >= right),
    "gt": ordered(lambda left, right: left > right),
    "index": index,
    "json": go_json,
    "le": ordered(lambda left, right: left <= right),
    "len": length,
    "lt": ordered(lambda left, right: left < right),
    "ne": lambda left, right: not same(left, right),
    "not": lambda value: not truth(value),
    "print": show,
    "printf": formatted,
    "println": show_line,
    "slice": cut,
    "toTypeScriptType": type_script,
    "yesterdayDate": date(-1),
}
