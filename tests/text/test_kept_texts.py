"""Large vocabularies are kept between runs, and never believed when they are damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamune.gguf import ModelFile
from llamune.text import Tokenizer
from llamune.text import texts as module
from llamune.text.vocabulary import Vocabulary, digest_of, read_vocabulary
from tests.text.corpus import HARD_TEXTS
from tests.text.vocabularies import (
    NORMAL,
    byte_pair_keys,
    sentence_piece_keys,
    spaced_pair_keys,
    write_vocabulary,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every vocabulary, however small, in a folder of the test."""
    monkeypatch.setenv("LLAMUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LEAST_KEPT", 1)
    return tmp_path / "cache" / "vocabularies"


def read(path: Path) -> Vocabulary:
    with ModelFile.open(path) as file:
        return read_vocabulary(file, digest=digest_of(file.metadata))


KINDS = {
    "bytes": byte_pair_keys("gpt-2", texts=HARD_TEXTS),
    "spaces": spaced_pair_keys("gemma4", texts=HARD_TEXTS),
    "pieces": sentence_piece_keys([("▁b", -1.0, NORMAL), ("a▁b", -2.0, NORMAL)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_what_was_read(
    tmp_path: Path, cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_vocabulary(tmp_path / "x.gguf", KINDS[kind])
    first = read(path)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(module, "c_strings", None)  # the file's own texts are not read again
    again = read(path)
    assert (again.tokens, again.merges) == (first.tokens, first.merges)
    assert again.joins_space == first.joins_space
    for text in HARD_TEXTS:
        assert Tokenizer(again).encode(text) == Tokenizer(first).encode(text)


@pytest.mark.parametrize("damage", ["cut", "turned bit", "other file", "empty"])
def test_a_damaged_file_is_read_anew(tmp_path: Path, cache: Path, damage: str) -> None:
    path = write_vocabulary(tmp_path / "x.gguf", KINDS["bytes"])
    first = read(path)
    (kept,) = cache.iterdir()
    data = bytearray(kept.read_bytes())
    if damage == "turned bit":
        data[len(data) // 2] ^= 1
    kept.write_bytes(
        {"cut": data[:-40], "turned bit": data, "other file": b"not an archive", "empty": b""}[
            damage
        ]
    )
    assert read(path).tokens == first.tokens
    assert module.kept(first.digest) is not None  # mended


def test_another_vocabulary_is_never_taken_for_it(tmp_path: Path) -> None:
    one = read(write_vocabulary(tmp_path / "1.gguf", KINDS["bytes"]))
    keys = byte_pair_keys("gpt-2", texts=HARD_TEXTS, seed=1)
    other = read(write_vocabulary(tmp_path / "2.gguf", keys))
    assert one.digest != other.digest
    assert one.merges != other.merges


def test_only_the_last_used_are_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 2)
    digests = []
    for seed in range(4):
        keys = byte_pair_keys("gpt-2", texts=HARD_TEXTS, seed=seed)
        digests.append(read(write_vocabulary(tmp_path / f"{seed}.gguf", keys)).digest)
        os.utime(module.kept_path(digests[-1]), (seed, seed))
        if seed == 2:
            assert module.kept(digests[1]) is not None  # used: it stays before the newer one
    assert {path.name[:64] for path in cache.iterdir()} == {digests[1], digests[3]}


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, cache: Path) -> None:
    cache.parent.write_text("a file stands where the folder would be")
    path = write_vocabulary(tmp_path / "x.gguf", KINDS["bytes"])
    assert read(path).tokens == read(path).tokens


def test_small_vocabularies_leave_no_trace(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_KEPT", 100_000)
    read(write_vocabulary(tmp_path / "x.gguf", KINDS["bytes"]))
    assert not cache.exists()
