"""Go values in Python: how they print, compare and become JSON.

A Go string is a `str`, a slice a `list`, a map a `dict`, an `any` holding a JSON number a
`float`, a struct a `Struct`; nil is None.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamune.text.errors import TemplateError

__all__ = ["Struct", "go_json", "go_text", "go_value", "truth"]

HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
SPECIAL = re.compile("[<>&\u2028\u2029]")


@dataclass(frozen=True, eq=False)
class Struct:
    """A Go struct.

    Attributes:
        kind: its name, for messages.
        fields: value of each field, in the order of its declaration.
        json_names: JSON name of each field; a name ending in `?` is left out when empty.
        prints_as_json: whether it prints as its JSON (it has a `String` method that does so).
    """

    kind: str
    fields: Mapping[str, Any]
    json_names: Mapping[str, str]
    prints_as_json: bool = False


class JsonText(dict[str, Any]):
    """A Go map whose `String` method prints its JSON."""


class JsonList(list[Any]):
    """A Go slice whose `String` method prints its JSON."""


class TypeNames(list[str]):
    """JSON Schema types: one prints and marshals as a text, several as a list."""


def go_value(value: Any) -> Any:
    """Return decoded JSON as Go's `any` would hold it: every number a float64."""
    if isinstance(value, Mapping):
        return {str(key): go_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [go_value(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def truth(value: Any) -> bool:
    """Return whether an `if` takes a value for true: not false, zero, nil or empty."""
    return True if isinstance(value, Struct) else bool(value)


def go_text(value: Any, *, outermost: bool = True) -> str:  # noqa: PLR0911  one for each type
    """Return a value as `{{ value }}` writes it, which is as `%v` does.

    Source: Go, `printValue` (text/template/exec.go) and package fmt.
    """
    if value is None:
        return "<no value>" if outermost else "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return float_text(value, exponent_from=6)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, JsonText | JsonList) or (
        isinstance(value, Struct) and value.prints_as_json
    ):
        return go_json(value)
    if isinstance(value, TypeNames):
        return value[0] if len(value) == 1 else f"[{' '.join(value)}]" if value else ""
    if isinstance(value, list):
        return f"[{' '.join(go_text(item, outermost=False) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{key}:{go_text(value[key], outermost=False)}" for key in sorted(value))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, Struct):
        return f"{{{' '.join(go_text(item, outermost=False) for item in value.fields.values())}}}"
    raise TemplateError(f"a value of type {type(value).__name__} cannot be printed")


def float_text(value: float, *, exponent_from: int) -> str:
    """Return the shortest text of a finite float64.

    Args:
        value: the number.
        exponent_from: the power of ten from which on it is written with an exponent.

    Source: Go, `strconv.FormatFloat(v, 'g', -1, 64)`.
    """
    sign, digits, point = digits_of(value)
    if not -4 <= point - 1 < exponent_from:
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{rest}e{point - 1:+03d}"
    return fixed_text(value)


def fixed_text(value: float) -> str:
    """Return the shortest text of a finite float64 without an exponent."""
    sign, digits, point = digits_of(value)
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    whole, part = digits[:point].ljust(point, "0"), digits[point:]
    return f"{sign}{whole}.{part}" if part else f"{sign}{whole}"


def digits_of(value: float) -> tuple[str, str, int]:
    """Return sign, significant digits and where the point stands: 120.0 is ("", "12", 3)."""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, part = mantissa.partition(".")
    spelled = whole + part
    digits = spelled.lstrip("0")
    point = len(whole) - (len(spelled) - len(digits)) + int(exponent or 0)
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    return (sign, digits.rstrip("0"), point) if digits else (sign, "0", 1)


def go_json(value: Any) -> str:  # noqa: PLR0911  one for each type
    """Return a value as Go's encoding/json writes it: maps sorted, `<`, `>` and `&` escaped."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return SPECIAL.sub(lambda found: HTML[found[0]], text)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return json_float(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, TypeNames) and len(value) == 1:
        return go_json(value[0])
    if isinstance(value, list):
        return f"[{','.join(go_json(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{go_json(key)}:{go_json(value[key])}" for key in sorted(value))
        return f"{{{','.join(pairs)}}}"
    if isinstance(value, Struct):
        return f"{{{','.join(struct_pairs(value))}}}"
    raise TemplateError(f"a value of type {type(value).__name__} cannot be written as JSON")


def struct_pairs(value: Struct) -> list[str]:
    """Return the members of a struct's JSON object, empty optional ones left out."""
    pairs = []
    for name, item in value.fields.items():
        shown = value.json_names.get(name, name)
        if shown.endswith("?") and not truth(item):
            continue
        pairs.append(f"{go_json(shown.removesuffix('?'))}:{go_json(item)}")
    return pairs


def json_float(value: float) -> str:
    """Return a float64 as encoding/json writes it.

    Source: Go, `floatEncoder.encode` (encoding/json/encode.go).
    """
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        return fixed_text(value)
    mantissa, _, exponent = float_text(value, exponent_from=0).partition("e")
    return f"{mantissa}e{exponent.replace('-0', '-')}"
