"""The root of the error tree. Each room adds its own branches.

LlamuneError            something the person can mend: exit code 2
├── UnsupportedError    a thing we do not implement exactly, refused by name
└── AnswerNo            the work was done and its answer is no: exit code 1

A message says what is wrong and where (file, offset, line, field); `hint` says what to do.
Anything that is not a `LlamuneError` is our own fault: exit code 3.
"""

from __future__ import annotations

__all__ = ["AnswerNo", "LlamuneError", "UnsupportedError"]


class LlamuneError(Exception):
    """Something the person can mend.

    Args:
        message: one line: what is wrong and where.
        hint: one line: what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnsupportedError(LlamuneError):
    """An architecture, type, tensor or feature that we do not implement exactly."""


class AnswerNo(LlamuneError):  # noqa: N818  an answer, not a fault
    """The work was done, and its answer is no (score too low, proof failed, will not fit)."""

    exit_code = 1
