"""Rendered records kept between runs; what does not match its fingerprint is rendered anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from llamune.data.answers import Template
from llamune.data.fingerprints import fingerprint
from llamune.data.records import Record
from llamune.data.rendering import Rendered, Tokens
from llamune.files import new_file

__all__ = ["cache_key", "cached", "keep"]

VERSION = 1
"""Raise it when rendering changes: what older versions kept is then not found."""


def cache_key(
    records: Sequence[Record], template: Template, tokenizer: Tokens, train_on: str
) -> str:
    """Return the name of what these records become, as 64 hex digits."""
    digest = hashlib.sha256()
    for part in (str(VERSION), template.text, tokenizer.digest, train_on):
        digest.update(f"{len(part)}:{part}".encode())
    for record in records:
        said = [
            record.text,
            [[*turn.for_template().items(), turn.train] for turn in record.messages],
            [dict(tool) for tool in record.tools],
        ]
        digest.update(json.dumps(said, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def cached(folder: Path, key: str) -> list[Rendered] | None:
    """Return kept records; None when there are none, or when they are damaged."""
    path = folder / f"{key}.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as arrays:
            ids, trained = arrays["ids"].tolist(), arrays["trained"].astype(bool).tolist()
            ends = np.cumsum(arrays["lengths"]).tolist()
            name = str(arrays["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    starts = [0, *ends][:-1]
    kept = [
        Rendered(ids[start:end], trained[start:end], False, end - start)
        for start, end in zip(starts, ends, strict=True)
    ]
    return kept if fingerprint(kept) == name else None


def keep(folder: Path, key: str, rendered: Sequence[Rendered], name: str) -> None:
    """Keep rendered records, whole ones, under a key.

    Args:
        folder: the cache.
        key: see `cache_key`.
        rendered: the records.
        name: their fingerprint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(folder / f"{key}.npz", replace=True) as out:
        np.savez_compressed(
            out,
            ids=np.array([token for record in rendered for token in record.ids], dtype=np.uint32),
            trained=np.array([kept for record in rendered for kept in record.trained], dtype=bool),
            lengths=np.array([len(record.ids) for record in rendered], dtype=np.int64),
            fingerprint=np.array(name),
        )
