"""What can go wrong in a store.

StoreError              a store, name, manifest or blob that cannot be used as asked
├── UnknownModelError   no store holds the name and no file lies at the path
├── DamagedError        a manifest or blob breaks a rule of the format
├── ExistsError         the name is taken and was not to be replaced
└── CopyNeededError     bytes can neither be linked nor cloned: the person decides
"""

from __future__ import annotations

from pathlib import Path

from llamune.errors import LlamuneError

__all__ = ["CopyNeededError", "DamagedError", "ExistsError", "StoreError", "UnknownModelError"]


class StoreError(LlamuneError):
    """A store, name, manifest or blob that cannot be used as asked."""


class UnknownModelError(StoreError):
    """No store holds the name and no file lies at the path."""


class DamagedError(StoreError):
    """A manifest or blob breaks a rule of the format."""


class ExistsError(StoreError):
    """The name is taken and was not to be replaced."""


class CopyNeededError(StoreError):
    """Bytes can neither be hard-linked nor cloned, and copying them was not agreed to.

    Args:
        source: the file.
        bytes_to_copy: its size.
    """

    def __init__(self, source: Path, bytes_to_copy: int) -> None:
        super().__init__(
            f"{source}: {bytes_to_copy:,} bytes can be neither linked nor cloned into the library",
            hint="agree to a copy (--copy), or keep a reference to the file only (--no-copy)",
        )
        self.source = source
        self.bytes_to_copy = bytes_to_copy
