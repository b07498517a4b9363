"""What can be wrong with an adapter.

LlamuneError
├── AdapterError     cannot be read, or does not fit its base
│   └── WrongBaseError    was trained on another base than the one it is used on
└── UnsupportedError what a GGUF adapter, or a merge, cannot express
"""

from __future__ import annotations

from llamune.errors import LlamuneError

__all__ = ["AdapterError", "WrongBaseError"]


class AdapterError(LlamuneError):
    """An adapter that cannot be read, or does not fit its base."""


class WrongBaseError(AdapterError):
    """An adapter that was trained on another base than the one it is used on."""
