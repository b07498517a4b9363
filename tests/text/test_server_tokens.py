"""Every cut of every pre-tokenizer through the tokenize endpoint of llama.cpp's server."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llamune.gguf import ModelFile
from llamune.text import tokenizer_of
from llamune.text.pretokenizers import PRE_TOKENIZERS
from tests.text.corpus import HARD_TEXTS, PIECES
from tests.text.rendering import renderer
from tests.text.test_pretokenizers import SPECIAL, every_cut
from tests.text.test_sentence_piece import FILES
from tests.text.vocabularies import byte_pair_keys, spaced_pair_keys, write_model

TEXTS = [*HARD_TEXTS, *PIECES]


def keys_of(name: str) -> dict[str, Any]:
    """Return a vocabulary by the name of its pre-tokenizer, or of a SentencePiece case."""
    if name in FILES:
        return FILES[name]
    escapes = PRE_TOKENIZERS[name].escapes_spaces
    make = spaced_pair_keys if escapes else byte_pair_keys
    return make(name, texts=TEXTS, n_merges=1000, special=SPECIAL)


def random_texts(count: int) -> list[str]:
    """Return texts of troublesome pieces and any characters that UTF-8 can hold."""
    choose = random.Random(0)
    codes = [*range(1, 0xD800), *range(0xE000, 0x11000), *range(0x1F000, 0x1FA00)]
    return [
        "".join(
            choose.choice(PIECES) if choose.random() < 0.6 else chr(choose.choice(codes))
            for _ in range(choose.randint(0, 20))
        )
        for _ in range(count)
    ]


def compare(path: Path, texts: list[str]) -> None:
    """Hold our ids against the server's, control tokens read and not, BOS and EOS and none."""
    with ModelFile.open(path) as file:
        tokenizer = tokenizer_of(file)
    with renderer(path) as judge:
        for number, text in enumerate(texts):
            flags = {"parse_special": number % 2 == 0, "add_special": number % 4 < 2}
            assert tokenizer.encode(text, **flags) == judge.tokenize(text, **flags), (text, flags)


def test_the_starters_ids_are_the_servers(starter_path: Path) -> None:
    compare(starter_path, [*TEXTS, *HARD_TEXTS, *random_texts(300)])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*every_cut(), *FILES])
def test_ids_are_the_servers(tmp_path: Path, name: str) -> None:
    compare(
        write_model(tmp_path / "x.gguf", keys_of(name)), [*TEXTS, *TEXTS[1:], *random_texts(200)]
    )
