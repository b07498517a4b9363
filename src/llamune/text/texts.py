"""The texts of a vocabulary: its tokens and merges, read from the file or kept from the last time.

In a model file each text comes after its own length, and half a million of them are found one
by one. Those of large vocabularies are therefore kept in the user's cache, under the digest of
the vocabulary, in one piece that is cut at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from llamune.files import new_file
from llamune.gguf import ModelFile
from llamune.store import starter
from llamune.text.errors import TextError

__all__ = ["PREFIX", "SPACE", "Texts", "read_texts"]

PREFIX = "tokenizer.ggml."
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space
END = "\0"  # no text of a vocabulary holds it: llama.cpp reads each as C does
# the character before a `▁` inside a token, or in a merge `left right`
BEFORE_SPACE = re.compile(f"([^{SPACE}{END} ]) ?{SPACE}")
LEAST_KEPT = 100_000  # tokens; smaller vocabularies are read in a tenth of a second
MAX_FILES = 6  # vocabularies; one with 256,000 tokens and its merges takes 10 MB
VERSION = 1  # raise it when what is kept changes: older files are then not found


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Tokens and merges.

    Attributes:
        tokens: the token texts; the index is the id.
        merges: `left right`, the earliest first; empty for SentencePiece.
        joins_space: characters from which a merge can cross to the `▁` after them; before any
            other `▁` a new word begins.
    """

    tokens: list[str]
    merges: list[str]
    joins_space: str


def read_texts(file: ModelFile, digest: str, *, merges: bool, escapes_spaces: bool) -> Texts:
    """Return the texts of a vocabulary.

    Args:
        file: the opened model file.
        digest: of its vocabulary, 64 hex digits.
        merges: whether the tokenizer works by merges.
        escapes_spaces: whether spaces are written as `▁` in the tokens.

    Raises:
        TextError: there are no tokens, or no merges where they are needed.
    """
    large = file.metadata.length(PREFIX + "tokens") >= LEAST_KEPT
    if large and (found := kept(digest)) is not None:
        return found
    tokens = c_strings(file, "tokens")
    if not tokens:
        raise TextError(f"{file.path}: {PREFIX}tokens: the vocabulary is empty")
    if "" in tokens:  # llama.cpp gives them these names
        tokens = [text or f"[EMPTY_{index}]" for index, text in enumerate(tokens)]
    if merges and PREFIX + "merges" not in file.metadata:
        raise TextError(
            f"{file.path}: {PREFIX}merges: missing, so text cannot be turned into tokens"
        )
    pairs = c_strings(file, "merges") if merges else []
    joins_space = joining(tokens, pairs if merges else None) if escapes_spaces else ""
    texts = Texts(tokens=tokens, merges=pairs, joins_space=joins_space)
    if large:
        keep(digest, texts)
    return texts


def c_strings(file: ModelFile, name: str) -> list[str]:
    """Return an array of texts, each ending at its first NUL, as C reads them.

    Decoded in one piece: half a million decodings of their own take three times as long.
    """
    texts = file.metadata.byte_strings(PREFIX + name)
    joined = b"\0".join(texts)
    if joined.count(b"\0") >= len(texts):
        joined = b"\0".join(text.partition(b"\0")[0] for text in texts)
    return joined.decode(errors="replace").split(END) if texts else []


def joining(tokens: Sequence[str], merges: Sequence[str] | None) -> str:
    """Return the characters from which a merge can cross to the `▁` after them.

    Args:
        tokens: the token texts.
        merges: the merges; None where any two symbols merge whose joint text is a token.
    """
    if merges is not None:
        return "".join(sorted(set(BEFORE_SPACE.findall(END.join(merges)))))
    known = set(tokens)
    found = set()
    for token in tokens:
        if SPACE in token[1:]:
            for border in BEFORE_SPACE.finditer(token):
                at = border.end() - 1
                parts = token[:at], token[at:]
                if all(len(part) == 1 or part in known for part in parts):
                    found.add(border[1])
    return "".join(sorted(found))


def folder() -> Path:
    """Return where vocabularies are kept, in the user's cache."""
    return starter.cache_folder() / "vocabularies"


def kept_path(digest: str) -> Path:
    """Return the file of one vocabulary."""
    return folder() / f"{digest}-{VERSION}.npz"


def kept(digest: str) -> Texts | None:
    """Return what is kept under a digest; None where nothing is, or what is there is damaged."""
    path = kept_path(digest)
    try:
        # numpy's own opening leaks a damaged file; each part of the archive has its CRC
        with path.open("rb") as source, np.load(source, allow_pickle=False) as arrays:
            tokens, merges = (
                arrays[name].tobytes().decode().split(END) for name in ("tokens", "merges")
            )
            found = Texts(
                tokens=tokens,
                merges=merges if merges != [""] else [],
                joins_space=str(arrays["joins_space"]),
            )
        os.utime(path)  # those used last stay
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return found


def keep(digest: str, texts: Texts) -> None:
    """Keep the texts of a vocabulary; where the cache cannot be written nothing is kept.

    Args:
        digest: of the vocabulary, 64 hex digits.
        texts: its texts.
    """
    tokens, merges = (
        np.frombuffer(END.join(part).encode(), dtype=np.uint8)
        for part in (texts.tokens, texts.merges)
    )
    try:
        with new_file(kept_path(digest), replace=True) as out:
            np.savez(out, tokens=tokens, merges=merges, joins_space=np.array(texts.joins_space))
        by_use = sorted(folder().glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for path in by_use[:-MAX_FILES]:
            path.unlink(missing_ok=True)
    except OSError:
        return  # a full disk, or a cache that another owns: it costs time and nothing else
