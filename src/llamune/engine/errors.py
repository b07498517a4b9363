"""What can go wrong between us and an inference engine.

EngineError          the engine cannot be had, started or reached, or refused the request
└── NativeMismatchError   the C interface is not the one we know: use the server's JSON instead
"""

from __future__ import annotations

from llamune.errors import LlamuneError

__all__ = ["EngineError", "NativeMismatchError"]


class EngineError(LlamuneError):
    """The engine cannot be had, started or reached, or it refused the request."""


class NativeMismatchError(EngineError):
    """The C interface of the installed library is not the pinned one."""
