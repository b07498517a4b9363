"""What can be wrong with a model file.

GgufError               a broken rule: has the path, the byte offset and the rule's short name
├── MissingKey          a metadata key that is needed and not there
└── UnsupportedFileError     a well-formed thing that we do not read, refused by name
"""

from __future__ import annotations

from pathlib import Path

from llamune.errors import LlamuneError, UnsupportedError

__all__ = ["GgufError", "MissingKey", "UnsupportedFileError"]


class GgufError(LlamuneError):
    """A model file breaks a rule of the format, or has changed while it was open.

    Args:
        path: the file.
        rule: short name of the rule that is broken (`magic`, `tensor bounds`, …).
        problem: what is wrong.
        offset: byte position in the file where it shows, where there is one.
        hint: what to do about it.
    """

    def __init__(
        self,
        path: Path,
        *,
        rule: str,
        problem: str,
        offset: int | None = None,
        hint: str | None = None,
    ) -> None:
        where = f"{path}" if offset is None else f"{path}, byte {offset}"
        super().__init__(f"{where}: {problem} (rule: {rule})", hint=hint)
        self.path = path
        self.offset = offset
        self.rule = rule


class MissingKey(GgufError, KeyError):  # noqa: N818  reads as what it says
    """A metadata key that is needed and that the file lacks; a KeyError, as a mapping's must be."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(path, rule="needed key", problem=f"metadata key {key!r} is missing")
        self.key = key

    def __str__(self) -> str:
        return self.message  # a KeyError would put it in quotes


class UnsupportedFileError(GgufError, UnsupportedError):
    """A version, byte order or type that is real but that we do not read."""
