"""A base with new tokens: its vocabulary and its tables of rows grow by them.

The base itself stays as it is: the grown file lies in the cache while a run needs it. What
the new rows learned goes into a file of its own (`adapter.grow_vocabulary` again, with the
trained rows), into which the adapter is merged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llamune.adapter import Floats, grow_vocabulary, tables_of_rows
from llamune.gguf import ModelFile
from llamune.runs import RecipeError
from llamune.store import Model, home
from llamune.text import Tokenizer

__all__ = ["first_rows", "grown_path"]


def grown_path(model: Model, file: ModelFile, tokenizer: Tokenizer, tokens: Sequence[str]) -> Path:
    """Return the base with new tokens, written into the cache when it is not there.

    Args:
        model: the base.
        file: its opened file.
        tokenizer: its tokenizer.
        tokens: texts that become one token each.

    Raises:
        RecipeError: a text is a token already, or stands twice.
    """
    if known := [text for text in tokens if tokenizer.id_of(text) is not None]:
        raise RecipeError(f"add_tokens: {known[0]!r} is a token of {model} already")
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise RecipeError("add_tokens: a text is empty or stands twice")
    identity = [model.digest or [str(model.path), model.path.stat().st_mtime_ns], *tokens]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    path = home() / "cache" / "grown" / f"{key}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = first_rows(file, tokenizer, tokens)
        grow_vocabulary(file, tokens, rows, path, replace=True)
    return path


def first_rows(
    file: ModelFile, tokenizer: Tokenizer, tokens: Sequence[str]
) -> Mapping[str, Floats]:
    """Return what new tokens begin with: the mean of the rows of what they were cut into.

    Returns:
        tensor name → float32 (new tokens, columns).
    """
    pieces = [tokenizer.encode(text) for text in tokens]
    rows = {}
    for name in tables_of_rows(file):
        means = [
            np.mean([file.floats(name, id_, id_ + 1)[0] for id_ in ids], axis=0) for ids in pieces
        ]
        rows[name] = np.asarray(means, np.float32)
    return rows
