"""A file is hostile until its header has been checked: by us, before llama.cpp sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamune.gguf import ModelFile

__all__ = ["check_headers"]


def check_headers(paths: Sequence[Path]) -> None:
    """Check that each file, with the shards that belong to it, keeps the rules of the format.

    Raises:
        GgufError: naming the file, the offset and the rule.
    """
    for path in paths:
        ModelFile.open(path).close()
