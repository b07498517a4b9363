"""What a family is read from: a model file, or a transformers folder on its way to become one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llamune.errors import LlamuneError, UnsupportedError

__all__ = ["Config", "Described", "HasKeys", "HasShape"]


class HasKeys(Protocol):
    """Metadata by full key."""

    def __contains__(self, key: object) -> bool: ...

    def __getitem__(self, key: str) -> Any: ...

    def integer(self, key: str, *, default: int = ...) -> int:
        """Return a whole number."""
        ...

    def number(self, key: str, *, default: float = ...) -> float:
        """Return a number."""
        ...

    def text(self, key: str, *, default: str = ...) -> str:
        """Return a text."""
        ...


class HasShape(Protocol):
    """A tensor's place in a table."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Torch order, rows first."""
        ...


class Described(Protocol):
    """What a family's reader needs; `ModelFile` is one."""

    @property
    def path(self) -> Path:
        """For messages."""
        ...

    @property
    def architecture(self) -> str:
        """`general.architecture`."""
        ...

    @property
    def metadata(self) -> HasKeys:
        """Metadata by full key."""
        ...

    @property
    def tensors(self) -> Mapping[str, HasShape]:
        """Tensors by GGUF name."""
        ...

    def floats(self, name: str) -> np.ndarray:
        """Return a small tensor's values."""
        ...


class Config:
    """A transformers `config.json`, read with errors that name the entry."""

    def __init__(self, path: Path, entries: Mapping[str, Any]) -> None:
        self.path = path
        self.entries = entries

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry; `default` when it is absent or null."""
        value = self.entries.get(name)
        return default if value is None else value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number.

        Raises:
            LlamuneError: it is absent without a default, or no number.
        """
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            found = "missing" if value is None else f"{value!r}, not a number"
            raise LlamuneError(f"{self.path}: {name} is {found}")
        return float(value)

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a whole number.

        Raises:
            LlamuneError: it is absent without a default, or no whole number.
        """
        value = self.number(name, default)
        if value != int(value):
            raise LlamuneError(f"{self.path}: {name} is {value}, not a whole number")
        return int(value)

    def rope(self, kind: str | None = None) -> dict[str, Any]:
        """Return the RoPE parameters in transformers 5's form, also from a version 4 config.

        Args:
            kind: of which layers, where they differ (`full_attention`, `sliding_attention`).
        """
        new = self.get("rope_parameters")
        if new is not None:
            return dict(new[kind] if kind is not None and kind in new else new)
        old = dict(self.get("rope_scaling", {}))
        if "type" in old:
            old.setdefault("rope_type", old.pop("type"))
        return {"rope_type": "default", "rope_theta": self.number("rope_theta", 10000.0), **old}

    def refuse(self, what: str) -> UnsupportedError:
        """Return the error that says what of this config is not implemented."""
        return UnsupportedError(
            f"{self.path}: {what} is not implemented",
            hint="llamune writes only what llama.cpp computes exactly as transformers does",
        )

    def refuse_unless(self, name: str, *allowed: Any) -> None:
        """Raise unless an entry is absent or one of `allowed`."""
        value = self.get(name)
        if value is not None and value not in allowed:
            raise self.refuse(f"{name} = {value!r}")
