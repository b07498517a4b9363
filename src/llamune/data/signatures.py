"""What is kept of each record to tell which are alike: hashes on disk, not the records.

For a record these bytes go to scratch files: 8 each of its whole, its question and its answer
(among ten million records the chance that any two different ones share a hash is 3 in a
million), 8 for each of `N_BANDS` bands of its MinHash signature, its place in the files, and its
text for the exact comparison. Reading them back takes one column at a time.

Source: MinHash with banding, Broder 1997 and Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", section 3.4; the signatures are rensa's.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from llamune.data.records import Record, Source

__all__ = ["N_BANDS", "Signatures", "common_lines", "jaccard", "normalized", "shingles"]

N_BANDS = 20
ROWS_PER_BAND = 6
"""With 20 bands of 6 rows, of pairs with a Jaccard similarity of 0.8 99.8 % are compared."""

SHINGLE_CHARACTERS = 5
COMMON_SHARE = 0.1
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]


def normalized(text: str) -> str:
    """Return text as it is compared: NFKC, small letters, single blanks."""
    # splitting is ten times as fast as a pattern
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def common_lines(records: Sequence[Record]) -> frozenset[str]:
    """Return the lines that many records share, such as one instruction for all.

    They are left out when records are compared: what is alike in all of them makes none alike.
    """
    counts = Counter(
        line for record in records for line in {normalized(part) for part in lines_of(record)}
    )
    least = max(3, COMMON_SHARE * len(records))
    return frozenset(line for line, count in counts.items() if line and count >= least)


def lines_of(record: Record) -> list[str]:
    """Return the lines of a record's question."""
    return record.question.splitlines() if record.text is None else []


def compared_text(record: Record, common: frozenset[str]) -> str:
    """Return what of a record is compared for likeness."""
    kept = [normalized(part) for part in lines_of(record)]
    kept = [line for line in kept if line not in common]
    return "\n".join([*kept, normalized(record.answer)]) if kept else normalized(record.whole)


def shingles(text: str) -> Hashes:
    """Return a hash of every run of `SHINGLE_CHARACTERS` characters; of the whole if shorter."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype("u8")
    width = min(SHINGLE_CHARACTERS, len(letters)) or 1
    n_shingles = max(1, len(letters) - width + 1)
    hashes = np.zeros(n_shingles, dtype=np.uint64)
    if len(letters):
        for place in range(width):
            hashes = (hashes + letters[place : place + n_shingles]) * MULTIPLIER
            hashes ^= hashes >> np.uint64(29)
    return hashes


def jaccard(first: str, second: str) -> float:
    """Return the share of shingles that two texts have in common, 0 to 1."""
    left, right = np.unique(shingles(first)), np.unique(shingles(second))
    n_both = np.intersect1d(left, right, assume_unique=True).size
    return float(n_both / (left.size + right.size - n_both))


class Signatures:
    """Scratch files of signatures, written in batches.

    Args:
        folder: where the scratch files go.
        common: lines to leave out, see `common_lines`.
    """

    def __init__(self, folder: Path, common: frozenset[str] = frozenset()) -> None:
        self.folder = folder
        self.common = common
        self.count = 0
        self.paths: list[str] = []
        names = ["whole", "question", "answer", "source", "ends", "texts"]
        names += [f"band{place}" for place in range(N_BANDS)]
        # closed by `close`
        self.files: dict[str, BinaryIO] = {
            name: cast(BinaryIO, (folder / name).open("wb")) for name in names
        }
        self.end = 0

    def add(self, records: Sequence[Record]) -> None:
        """Write the signatures of some records."""
        if not records:
            return
        texts = [compared_text(record, self.common) for record in records]
        hashes = [shingles(text) for text in texts]
        offsets = np.cumsum([0, *map(len, hashes)], dtype=np.uint64)
        for place, column in enumerate(bands(np.concatenate(hashes), offsets).T):
            self.files[f"band{place}"].write(np.ascontiguousarray(column).tobytes())
        for record, text in zip(records, texts, strict=True):
            self.files["whole"].write(digest(normalized(record.whole)))
            self.files["question"].write(digest(normalized(record.question)))
            self.files["answer"].write(digest(normalized(record.answer)))
            self.files["source"].write(self.place_of(record.source).tobytes())
            self.end += self.files["texts"].write(text.encode("utf-8", "surrogatepass"))
            self.files["ends"].write(np.uint64(self.end).tobytes())
        self.count += len(records)

    def place_of(self, source: Source) -> npt.NDArray[np.int64]:
        """Return a record's place as numbers: file, record, line."""
        if not self.paths or self.paths[-1] != source.path:
            self.paths.append(source.path)
        return np.array([len(self.paths) - 1, source.number, source.line or 0], dtype=np.int64)

    def close(self) -> None:
        """Finish writing."""
        for file in self.files.values():
            file.close()

    def column(self, name: str) -> Hashes:
        """Return one column of hashes, in the order of the records."""
        return np.fromfile(self.folder / name, dtype=np.uint64)

    def source(self, place: int) -> Source:
        """Return where a record stands."""
        numbers = np.fromfile(
            self.folder / "source", dtype=np.int64, count=3, offset=24 * place
        ).tolist()
        return Source(path=self.paths[numbers[0]], number=numbers[1], line=numbers[2] or None)

    def text(self, place: int, ends: npt.NDArray[np.uint64]) -> str:
        """Return the compared text of a record.

        Args:
            place: which record.
            ends: the column `ends`.
        """
        start = int(ends[place - 1]) if place else 0
        with (self.folder / "texts").open("rb") as file:
            file.seek(start)
            raw = file.read(int(ends[place]) - start)
        return raw.decode("utf-8", "surrogatepass")


def digest(text: str) -> bytes:
    """Return a hash of a text, 8 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def bands(hashes: Hashes, offsets: Hashes) -> Hashes:
    """Return the hash of each band of each record's MinHash signature.

    Args:
        hashes: the shingles of all records, one after the other.
        offsets: where each record's begin, and where the last end.

    Returns:
        Shape (records, `N_BANDS`).
    """
    import rensa

    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets, N_BANDS * ROWS_PER_BAND, 1
    )
    rows = np.asarray(matrix.to_rows(), dtype=np.uint64).reshape(-1, N_BANDS, ROWS_PER_BAND)
    mixed = np.zeros(rows.shape[:2], dtype=np.uint64)
    for place in range(ROWS_PER_BAND):
        mixed = (mixed ^ rows[:, :, place]) * MULTIPLIER
        mixed ^= mixed >> np.uint64(31)
    return mixed
