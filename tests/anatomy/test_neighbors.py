"""Neighbours in the token embedding against one dense computation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llamune.anatomy import cosines, find_words, nearest, numbers
from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf import ModelFile, write_gguf
from llamune.text import Tokenizer, tokenizer_of


@pytest.fixture(scope="module")
def starter(starter_path: Path) -> Iterator[tuple[ModelFile, Tokenizer]]:
    with ModelFile.open(starter_path) as file:
        yield file, tokenizer_of(file)


def test_a_dense_table_gives_the_same(
    starter: tuple[ModelFile, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "SLAB_ELEMENTS", 1 << 20)
    file, tokenizer = starter
    words = find_words(file, tokenizer, ["cat", "猫"])
    table = file.floats("token_embd.weight")
    unit = table / np.linalg.norm(table, axis=1, keepdims=True).clip(1e-30)
    for word, found in zip(words, nearest(file, tokenizer, words, count=5), strict=True):
        mean = table[list(word.ids)].mean(axis=0)
        scores = unit @ (mean / np.linalg.norm(mean))
        scores[list(word.ids)] = -2
        wanted = np.argsort(-scores)[:5]
        assert [one.id for one in found] == wanted.tolist()
        assert [one.cosine for one in found] == pytest.approx(scores[wanted].tolist(), abs=1e-5)


def test_words_say_which_tokens_they_are(starter: tuple[ModelFile, Tokenizer]) -> None:
    file, tokenizer = starter
    cat, several, spaced = find_words(file, tokenizer, ["cat", "猫", "quickly"])
    assert (len(cat.ids), cat.with_space) == (1, False)
    assert len(several.ids) == 3
    assert tokenizer.decode(list(several.ids)) == "猫"
    assert (len(spaced.ids), spaced.with_space) == (1, True)
    between = cosines([cat, several])
    assert between.shape == (2, 2)
    assert np.diag(between) == pytest.approx([1, 1])
    assert between[0, 1] == between[1, 0]


def test_words_that_are_nothing_are_refused(starter: tuple[ModelFile, Tokenizer]) -> None:
    with pytest.raises(LlamuneError, match="has no token"):
        find_words(*starter, [""])


def test_a_file_without_an_embedding_is_refused(
    starter: tuple[ModelFile, Tokenizer], tmp_path: Path
) -> None:
    path = tmp_path / "bare.gguf"
    write_gguf(path, metadata={}, tensors=[])
    with ModelFile.open(path) as file, pytest.raises(UnsupportedError, match="no token embedding"):
        find_words(file, starter[1], ["cat"])
