"""New tokens in a model file: a longer vocabulary, and as many more rows in its tables.

Everything else is copied byte for byte, the rows of the old tokens included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamune.adapter.errors import AdapterError
from llamune.adapter.lora import Floats
from llamune.adapter.merge import COPY_BYTES, SPLIT_KEYS
from llamune.adapter.safetensors_file import read_safetensors
from llamune.errors import UnsupportedError
from llamune.gguf import Entry, ModelFile, NewTensor, TensorInfo, ValueType, nearest, write_gguf
from llamune.text import TokenKind

__all__ = ["NEW_ROWS", "grow_vocabulary", "read_new_rows", "tables_of_rows"]

NEW_ROWS = "new_tokens.safetensors"  # beside a PEFT adapter, which has no place for them

PREFIX = "tokenizer.ggml."
TABLES = ("token_embd.weight", "output.weight")
PER_TOKEN = ("per_layer_token_embd.weight",)  # Gemma 3n's, which we do not train


def tables_of_rows(file: ModelFile) -> list[str]:
    """Return the tensors that have a row a token: the embedding, and the output where untied."""
    return [name for name in TABLES if name in file.tensors]


def read_new_rows(folder: Path) -> dict[str, Floats]:
    """Return the trained rows of new tokens that lie beside an adapter, by tensor name.

    Raises:
        AdapterError: the file is damaged.
    """
    path = folder / NEW_ROWS
    return read_safetensors(path) if path.is_file() else {}


def grow_vocabulary(
    base: ModelFile,
    tokens: Sequence[str],
    rows: Mapping[str, Floats],
    out: Path,
    *,
    replace: bool = False,
) -> None:
    """Write a base with new tokens at the end of its vocabulary.

    Args:
        base: the base file.
        tokens: their texts; each is found in text as it stands, as llama.cpp does with
            tokens of the kind "user defined".
        rows: for each of `tables_of_rows`, float32 (new tokens, columns); packed at the
            table's own type.
        out: the new file.
        replace: whether a file at `out` may be replaced.

    Raises:
        AdapterError: rows of another shape than the base's.
        UnsupportedError: the base has another table with a row a token.
    """
    if other := [name for name in PER_TOKEN if name in base.tensors]:
        raise UnsupportedError(f"{base.path}: new tokens in a model with {other[0]}")
    for name in tables_of_rows(base):
        wanted = (len(tokens), base.tensors[name].n_columns)
        if name not in rows or rows[name].shape != wanted:
            found = rows[name].shape if name in rows else "none"
            raise AdapterError(f"{out}: {name}: new rows of shape {found}, {wanted} are wanted")
    tensors = []
    for tensor in base.tensors.values():
        new = rows.get(tensor.name)
        n_new = 0 if new is None else len(new)
        shape = (tensor.shape[0] + n_new, *tensor.shape[1:])
        tensors.append(NewTensor(tensor.name, shape, tensor.type, GrownTensor(base, tensor, new)))
    write_gguf(
        out,
        metadata=grown_metadata(base, tokens),
        tensors=tensors,
        alignment=base.alignment,
        version=base.version,
        replace=replace,
    )


def grown_metadata(base: ModelFile, tokens: Sequence[str]) -> dict[str, Entry]:
    """Return the base's keys with the new tokens in those that list tokens."""
    metadata = base.metadata
    entries = {key: metadata.entry(key) for key in metadata if key not in SPLIT_KEYS}
    texts = list(metadata.byte_strings(f"{PREFIX}tokens"))
    entries[f"{PREFIX}tokens"] = Entry.of([*texts, *(text.encode() for text in tokens)])
    old_kinds = metadata.get(f"{PREFIX}token_type")
    kinds = np.full(len(texts), TokenKind.NORMAL) if old_kinds is None else np.asarray(old_kinds)
    new_kinds = np.full(len(tokens), TokenKind.USER_DEFINED)
    entries[f"{PREFIX}token_type"] = Entry.of(
        np.concatenate([kinds, new_kinds]).astype(np.int32), ValueType.I32
    )
    if f"{PREFIX}scores" in metadata:
        scores = np.asarray(metadata[f"{PREFIX}scores"], np.float32)
        entries[f"{PREFIX}scores"] = Entry.of(np.append(scores, np.zeros(len(tokens), np.float32)))
    size_key = f"{base.architecture}.vocab_size"
    if size_key in metadata:
        entries[size_key] = Entry.of(metadata.integer(size_key) + len(tokens))
    return entries


@dataclass(frozen=True, eq=False)
class GrownTensor:
    """A tensor's bytes as they are, and new rows after them."""

    base: ModelFile
    tensor: TensorInfo
    new: Floats | None  # (new rows, columns)

    def __call__(self) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
        """Yield the packed rows."""
        step = max(1, COPY_BYTES // max(1, self.tensor.row_bytes))
        for start in range(0, self.tensor.n_rows, step):
            yield self.base.packed(self.tensor.name, start, start + step)
        if self.new is not None:
            yield nearest(self.tensor.name, self.new, self.tensor.type)
