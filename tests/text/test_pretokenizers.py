"""Every pre-tokenizer by name against llama.cpp, on vocabularies where each cut shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.text import Tokenizer, tokenizer_of
from llamune.text.pretokenizers import PRE_TOKENIZERS
from tests.text.corpus import HARD_TEXTS, PIECES, hard_text
from tests.text.oracle import Oracle
from tests.text.vocabularies import (
    CONTROL,
    USER_DEFINED,
    byte_pair_keys,
    spaced_pair_keys,
    write_vocabulary,
)

SPECIAL = [
    ("<s>", CONTROL),
    ("</s>", CONTROL),
    ("<|im_start|>", CONTROL),
    ("<|im_end|>", USER_DEFINED),
    ("[INST]", USER_DEFINED),
]
NAMES = sorted(PRE_TOKENIZERS)
PAIRS: dict[str, tuple[Tokenizer, Oracle]] = {}


@pytest.fixture(scope="module", autouse=True)
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write one vocabulary under every name, and open each in both tokenizers."""
    folder = tmp_path_factory.mktemp("vocabularies")
    texts = [*HARD_TEXTS, *PIECES]
    by_bytes = byte_pair_keys("", texts=texts, n_merges=1000, special=SPECIAL)
    by_letters = spaced_pair_keys("", texts=texts, n_merges=1000, special=SPECIAL)
    for name in NAMES:
        keys = by_letters if PRE_TOKENIZERS[name].escapes_spaces else by_bytes
        path = write_vocabulary(folder / f"{name}.gguf", {**keys, "tokenizer.ggml.pre": name})
        with ModelFile.open(path) as file:
            PAIRS[name] = tokenizer_of(file), Oracle(path)
    yield
    for _, judge in PAIRS.values():
        judge.close()
    PAIRS.clear()


def every_cut() -> list[str]:
    """Return names that cover each pre-tokenizer once, the first of its names."""
    return list({id(PRE_TOKENIZERS[name].steps): name for name in reversed(NAMES)}.values())


@pytest.mark.parametrize("name", every_cut())
def test_hard_texts_have_llama_cpps_ids(name: str) -> None:
    tokenizer, judge = PAIRS[name]
    for text in [*HARD_TEXTS, *PIECES, *("".join(pair) for pair in pairwise(PIECES))]:
        for flags in ({"parse_special": True, "add_special": True}, {"parse_special": False}):
            assert tokenizer.encode(text, **flags) == judge.encode(text, **flags), (text, flags)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_llama_cpps_ids(name: str) -> None:
    tokenizer, judge = PAIRS[name]
    text = "\n".join(HARD_TEXTS)
    assert tokenizer.encode(text, add_special=True) == judge.encode(text, add_special=True)
    assert tokenizer.adds_bos == (judge.encode("", add_special=True) != [])


@settings(max_examples=250)
@given(name=st.sampled_from(NAMES), text=hard_text())
def test_any_text_has_llama_cpps_ids(name: str, text: str) -> None:
    tokenizer, judge = PAIRS[name]
    assert tokenizer.encode(text) == judge.encode(text)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    keys = byte_pair_keys("my-own", texts=["hello"], n_merges=2)
    with (
        ModelFile.open(write_vocabulary(tmp_path / "x.gguf", keys)) as file,
        pytest.raises(UnsupportedError, match="'my-own'"),
    ):
        tokenizer_of(file)
