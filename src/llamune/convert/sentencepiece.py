"""The pieces of a SentencePiece model, read from its protobuf without a library.

Source: sentencepiece_model.proto: message 1 of the file is a piece: text 1, score 2 (f32), type 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamune.errors import LlamuneError

__all__ = ["Piece", "read_pieces"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
PIECE, TEXT, SCORE, KIND = 1, 1, 2, 3
NORMAL = 1
MAX_VARINT_BYTES = 10


@dataclass(frozen=True)
class Piece:
    """One piece; `kind` numbers as `tokenizer.ggml.token_type` does."""

    text: str
    score: float
    kind: int


def read_pieces(path: Path) -> list[Piece]:
    """Return the pieces of a SentencePiece model, in the order of their ids.

    Raises:
        LlamuneError: the file is damaged.
    """
    data = path.read_bytes()
    try:
        pieces = [
            piece_of(value)
            for number, value in fields(data)
            if number == PIECE and isinstance(value, bytes)
        ]
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise LlamuneError(f"{path}: no SentencePiece model: {error}") from None
    if not pieces:
        raise LlamuneError(f"{path}: no SentencePiece model: it holds no pieces")
    return pieces


def piece_of(data: bytes) -> Piece:
    """Return one piece."""
    text, score, kind = "", 0.0, NORMAL
    for number, value in fields(data):
        if number == TEXT and isinstance(value, bytes):
            text = value.decode()
        elif number == SCORE and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == KIND and isinstance(value, int):
            kind = value
    return Piece(text, score, kind)


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield each field of a protobuf message: its number, and its value."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        if wire == BYTES:
            size, at = varint(data, at)
        elif wire in {FIXED32, FIXED64}:
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"byte {at}: wire type {wire}")
        if at + size > len(data):
            raise ValueError(f"byte {at}: a field runs past the end")
        yield number, data[at : at + size]
        at += size


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of 7-bit groups, and the position after it."""
    value = 0
    for index in range(MAX_VARINT_BYTES):
        byte = data[at + index]
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, at + index + 1
    raise ValueError(f"byte {at}: a number without an end")
