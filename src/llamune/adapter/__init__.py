"""LoRA adapters as files: PEFT folders and GGUF files, bound to their base, merged into it."""

from __future__ import annotations

from pathlib import Path

from llamune.adapter.errors import AdapterError, WrongBaseError
from llamune.adapter.gguf_file import (
    DIGEST_KEY,
    read_gguf_adapter,
    write_adapter,
    write_gguf_adapter,
)
from llamune.adapter.growing import NEW_ROWS, grow_vocabulary, read_new_rows, tables_of_rows
from llamune.adapter.lora import Floats, LoraAdapter, LoraPair, check_base, check_shapes
from llamune.adapter.merge import (
    MergedTensor,
    MergeResult,
    changed_rows,
    check_merge,
    merge,
    merged_size,
)
from llamune.adapter.peft_folder import is_peft_folder, read_peft, write_peft
from llamune.arch import Family

__all__ = [
    "DIGEST_KEY",
    "NEW_ROWS",
    "AdapterError",
    "Floats",
    "LoraAdapter",
    "LoraPair",
    "MergeResult",
    "MergedTensor",
    "WrongBaseError",
    "changed_rows",
    "check_base",
    "check_merge",
    "check_shapes",
    "grow_vocabulary",
    "is_peft_folder",
    "merge",
    "merged_size",
    "read_adapter",
    "read_gguf_adapter",
    "read_new_rows",
    "read_peft",
    "tables_of_rows",
    "write_adapter",
    "write_gguf_adapter",
    "write_peft",
]


def read_adapter(path: Path, family: Family) -> LoraAdapter:
    """Read an adapter, a PEFT folder or a GGUF file, for a base of this family.

    Raises:
        AdapterError: there is no adapter at `path`, or it is damaged or does not fit.
        UnsupportedError: it holds something that cannot be expressed.
    """
    if not path.exists():
        raise AdapterError(f"{path}: there is no such adapter")
    return read_peft(path, family) if path.is_dir() else read_gguf_adapter(path)
