"""Which tokens lie near a word in the token embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamune.anatomy.numbers import slabs_of
from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf import ModelFile

if TYPE_CHECKING:
    from llamune.text import Tokenizer

__all__ = ["Neighbor", "Word", "cosines", "find_words", "nearest", "text_of"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

EMBEDDING = "token_embd.weight"
SMALLEST = 1e-30  # a length below this is 0: such a row points nowhere


@dataclass(frozen=True)
class Word:
    """A word as the model sees it.

    Args:
        text: what the person wrote.
        ids: its tokens; several where the vocabulary has no token for the whole word.
        with_space: whether a space was put before it to find a whole token.
        direction: float32 (columns,), the mean of its tokens' rows, of length 1.
    """

    text: str
    ids: tuple[int, ...]
    with_space: bool
    direction: Floats


@dataclass(frozen=True)
class Neighbor:
    """A token near a word.

    Args:
        id: its number.
        text: its text.
        cosine: of the angle between both, 1 for the same direction.
    """

    id: int
    text: str
    cosine: float


def find_words(file: ModelFile, tokenizer: Tokenizer, texts: Sequence[str]) -> list[Word]:
    """Return words with their directions in the token embedding.

    Raises:
        UnsupportedError: the file has no token embedding.
        LlamuneError: a word is empty.
    """
    if EMBEDDING not in file.tensors:
        raise UnsupportedError(f"{file.path}: has no token embedding")
    return [find_word(file, tokenizer, text) for text in texts]


def find_word(file: ModelFile, tokenizer: Tokenizer, text: str) -> Word:
    """Return a word with its direction."""
    ids = tokenizer.encode(text, parse_special=False)
    with_space = False
    if len(ids) > 1:  # most words have a token of their own only after a space
        spaced = tokenizer.encode(f" {text}", parse_special=False)
        if len(spaced) == 1:
            ids, with_space = spaced, True
    n_rows = file.tensors[EMBEDDING].n_rows
    if not ids or max(ids) >= n_rows:
        raise LlamuneError(f"the word {text!r} has no token in this model")
    rows = np.concatenate([file.floats(EMBEDDING, one, one + 1) for one in ids])
    mean = rows.mean(axis=0)
    return Word(text, tuple(ids), with_space, mean / max(float(np.linalg.norm(mean)), SMALLEST))


def cosines(words: Sequence[Word]) -> Floats:
    """Return the cosine of every two words, float32 (words, words)."""
    directions = np.stack([word.direction for word in words])
    return np.asarray(directions @ directions.T, np.float32)


def nearest(
    file: ModelFile, tokenizer: Tokenizer, words: Sequence[Word], *, count: int
) -> list[list[Neighbor]]:
    """Return the nearest tokens of each word, the nearest first; its own tokens are left out.

    The table is read a slab at a time, so memory stays bounded however large it is.
    """
    directions = np.stack([word.direction for word in words])  # (words, columns)
    kept = count + max(len(word.ids) for word in words)
    best = np.full((len(words), 0), -np.inf, np.float32)
    best_ids = np.zeros((len(words), 0), np.int64)
    for start, stop in slabs_of(file, EMBEDDING):
        rows = file.floats(EMBEDDING, start, stop)
        lengths = np.maximum(np.linalg.norm(rows, axis=1), SMALLEST)
        scores = (directions @ rows.T) / lengths  # (words, rows)
        ids = np.broadcast_to(np.arange(start, stop), scores.shape)
        best, best_ids = highest(
            np.concatenate([best, scores], axis=1),
            np.concatenate([best_ids, ids], axis=1),
            kept,
        )
    return [
        [
            Neighbor(int(one), text_of(tokenizer, int(one)), float(score))
            for one, score in zip(ids, scores, strict=True)
            if int(one) not in word.ids
        ][:count]
        for word, ids, scores in zip(words, best_ids, best, strict=True)
    ]


def highest(
    scores: Floats, ids: np.ndarray[Any, np.dtype[np.int64]], count: int
) -> tuple[Floats, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return each row's highest scores, falling, and their ids."""
    count = min(count, scores.shape[1])
    found = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    found = np.take_along_axis(found, order, axis=1)
    return np.take_along_axis(scores, found, axis=1), np.take_along_axis(ids, found, axis=1)


def text_of(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text; its bytes where they are a piece of a character."""
    if token >= tokenizer.n_vocab:  # a padding row of the table
        return ""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"<{data.hex(' ')}>"
