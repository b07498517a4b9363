"""Real vocabularies: the texts and ids that llama.cpp publishes, and llama.cpp itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.text import Tokenizer, tokenizer_of
from tests.text.corpus import HARD_TEXTS, PIECES
from tests.text.oracle import oracle
from tests.text.published import SEPARATOR, models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLAIMED = [
    *("aquila", "baichuan", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4"),
    *("gpt-2", "gpt-neox", "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact"),
    "starcoder",
]
REFUSED = {"bert-bge": "bert", "nomic-bert-moe": "t5"}


def vocabulary(name: str) -> Path:
    return models() / f"ggml-vocab-{name}.gguf"


def opened(name: str) -> Tokenizer:
    with ModelFile.open(vocabulary(name)) as file:
        return tokenizer_of(file)


def test_every_vocabulary_is_claimed_or_refused() -> None:
    found = {path.stem.removeprefix("ggml-vocab-") for path in models().glob("ggml-vocab-*.gguf")}
    assert found == {*CLAIMED, *REFUSED}


@pytest.mark.parametrize("name", CLAIMED)
def test_published_texts_have_the_published_ids(name: str) -> None:
    path = vocabulary(name)
    texts_path = path.with_name(f"{path.name}.inp")
    if not texts_path.exists():
        pytest.skip("llama.cpp publishes no texts for this vocabulary")
    texts = texts_path.read_text(encoding="utf-8").split(SEPARATOR)
    lines = path.with_name(f"{path.name}.out").read_text().split("\n")[: len(texts)]
    tokenizer = opened(name)
    found = [tokenizer.encode(text, parse_special=False) for text in texts]
    assert found == [[int(id_) for id_ in line.split()] for line in lines]


@pytest.mark.parametrize("name", CLAIMED)
def test_random_texts_have_llama_cpps_ids(name: str) -> None:
    tokenizer = opened(name)
    choose = random.Random(name)
    characters = [*"aabehorst 012.,'\n\t日本語の。éЖ한👍\u0301", *PIECES]
    with oracle(vocabulary(name)) as judge:
        for _ in range(2_000):
            text = "".join(choose.choices(characters, k=choose.randint(0, 40)))
            flags = {"parse_special": choose.random() < 0.5, "add_special": choose.random() < 0.5}
            assert tokenizer.encode(text, **flags) == judge.encode(text, **flags), (text, flags)
        for text in HARD_TEXTS:
            assert tokenizer.encode(text) == judge.encode(text)


@pytest.mark.parametrize("name", ["qwen35", "deepseek-llm", "llama-spm"])
def test_every_character_has_llama_cpps_ids(name: str) -> None:
    """Each character between letters, digits and spaces; unassigned planes by sample."""
    tokenizer = opened(name)
    with oracle(vocabulary(name)) as judge:
        for first in [*range(1, 0x33500, 64), *range(0x33500, 0x110000, 0x1000)]:
            block = [chr(code) for code in range(first, first + 64) if not 0xD800 <= code < 0xE000]
            text = "".join(f"a{one}b 1{one}{one}. {one}c" for one in block)
            assert tokenizer.encode(text) == judge.encode(text), hex(first)


@pytest.mark.parametrize("name", CLAIMED)
def test_pieces_and_ends_are_llama_cpps(name: str) -> None:
    tokenizer = opened(name)
    with oracle(vocabulary(name)) as judge:
        assert tokenizer.stop_ids == judge.ends()
        for id_ in range(judge.n_tokens):
            assert tokenizer.token_bytes(id_) == judge.piece(id_), id_


@pytest.mark.parametrize("name", REFUSED)
def test_other_tokenizer_models_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedError, match=repr(REFUSED[name])):
        opened(name)
