"""What can be wrong with a data file.

DataError(LlamuneError)   the file as a whole: cannot be read, has no readable record
A single bad record is no exception: it is a `Problem`, reported and counted.
"""

from __future__ import annotations

from pathlib import Path

from llamune.errors import LlamuneError

__all__ = ["DataError"]


class DataError(LlamuneError):
    """A data file that cannot be used.

    Args:
        message: what is wrong, without the path.
        path: the file.
        line: where in it, counted from 1.
        hint: what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        hint: str | None = None,
    ) -> None:
        place = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(f"{place}{message}", hint=hint)
        self.path = None if path is None else Path(path)
        self.line = line
