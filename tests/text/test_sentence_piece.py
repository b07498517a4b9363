"""SentencePiece vocabularies against llama.cpp: byte fallback, scores that tie, space prefixes."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.gguf import ModelFile
from llamune.text import TextError, Tokenizer, tokenizer_of
from tests.text.corpus import HARD_TEXTS, hard_text
from tests.text.oracle import Oracle
from tests.text.vocabularies import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    sentence_piece_keys,
    write_vocabulary,
)

Row = tuple[str, float, int]
SPECIAL: list[Row] = [
    ("<|im_start|>", 0.0, CONTROL),
    ("<|im_end|>", 0.0, USER_DEFINED),
    ("<start_of_turn>", 0.0, CONTROL),
    ("<|endoftext|>", 0.0, CONTROL),
    ("\n\n", -1000.0, USER_DEFINED),
    ("▁▁", -1000.0, USER_DEFINED),
]


def pieces(*, distinct: bool) -> list[Row]:
    """Return tokens cut from the hard texts, their scores all different or often equal."""
    choose = random.Random(7)
    found = dict.fromkeys(
        character for text in HARD_TEXTS for character in text if ord(character) < 0x3000
    )
    text = " ".join(HARD_TEXTS).replace(" ", "▁").replace("\0", "")
    found.update(dict.fromkeys(("▁", "aa", "aaa", "aaaa", "ha", "hah", "ah", "haha", "▁▁▁", "==")))
    while len(found) < 900:
        at = choose.randrange(len(text) - 8)
        found[text[at : at + choose.randint(2, 5)]] = None
    for text, _, _ in SPECIAL:
        found.pop(text, None)
    for text in (" ", "\0", "<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))):
        found.pop(text, None)
    order = list(found)
    choose.shuffle(order)
    scores = range(len(order)) if distinct else [choose.randrange(6) for _ in order]
    return [(text, -float(score), NORMAL) for text, score in zip(order, scores, strict=True)]


FILES: dict[str, dict[str, Any]] = {
    "distinct scores": sentence_piece_keys(pieces(distinct=True) + SPECIAL),
    "equal scores": sentence_piece_keys(pieces(distinct=False) + SPECIAL),
    "no space prefix": sentence_piece_keys(
        pieces(distinct=True) + SPECIAL, **{"tokenizer.ggml.add_space_prefix": False}
    ),
    "adds eos": sentence_piece_keys(
        pieces(distinct=True) + SPECIAL,
        **{"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True},
    ),
    "a token across a space": sentence_piece_keys(
        [*pieces(distinct=True), ("o▁w", -3.0, NORMAL), ("lo▁w", -1.0, NORMAL), *SPECIAL]
    ),
    "a letter that is no token": sentence_piece_keys(
        [*pieces(distinct=True), ("ʘ▁", -2.0, NORMAL), *SPECIAL]
    ),
    "phi-3": sentence_piece_keys(pieces(distinct=True) + SPECIAL, **{"general.name": "Phi-3 mini"}),
}
PAIRS: dict[str, tuple[Tokenizer, Oracle]] = {}


@pytest.fixture(scope="module", autouse=True)
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Open each vocabulary in both tokenizers."""
    folder = tmp_path_factory.mktemp("vocabularies")
    for name, keys in FILES.items():
        path = write_vocabulary(folder / f"{name}.gguf", keys)
        with ModelFile.open(path) as file:
            PAIRS[name] = tokenizer_of(file), Oracle(path)
    yield
    for _, judge in PAIRS.values():
        judge.close()
    PAIRS.clear()


@pytest.mark.parametrize("name", FILES)
def test_hard_texts_have_llama_cpps_ids(name: str) -> None:
    tokenizer, judge = PAIRS[name]
    for text in [
        *HARD_TEXTS,
        "hello world",
        "ʘ ʘʘ aʘ  b",
        "<|im_end|>  \n x <|im_start|> y </s> z <s> w",
    ]:
        for flags in ({"parse_special": True, "add_special": True}, {"parse_special": False}):
            assert tokenizer.encode(text, **flags) == judge.encode(text, **flags), (text, flags)


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(FILES)), text=hard_text())
def test_any_text_has_llama_cpps_ids(name: str, text: str) -> None:
    tokenizer, judge = PAIRS[name]
    assert tokenizer.encode(text) == judge.encode(text)


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(FILES)), text=st.text("ah= ▁", max_size=40))
def test_runs_of_few_letters_merge_from_the_left(name: str, text: str) -> None:
    tokenizer, judge = PAIRS[name]
    assert tokenizer.encode(text) == judge.encode(text)


@pytest.mark.parametrize("name", ["distinct scores", "equal scores"])
def test_a_long_text_has_llama_cpps_ids(name: str) -> None:
    tokenizer, judge = PAIRS[name]
    text = "".join(random.Random(3).choices("ahelow= 日本語\n", k=20_000))
    assert tokenizer.encode(text) == judge.encode(text)


def test_pieces_and_ends_are_llama_cpps() -> None:
    for tokenizer, judge in PAIRS.values():
        assert tokenizer.stop_ids == judge.ends()
        found = [tokenizer.token_bytes(id_) for id_ in range(judge.n_tokens)]
        assert found == [judge.piece(id_) for id_ in range(judge.n_tokens)]


@settings(max_examples=100)
@given(text=hard_text())
def test_decoding_gives_the_text_back(text: str) -> None:
    tokenizer, _ = PAIRS["no space prefix"]
    # two things come back otherwise, in llama.cpp as here: text that spells a byte token, and
    # two spaces, which are a user-defined token whose text is shown as it stands
    plain = re.sub(" +", " ", text.replace("▁", "").replace("<0x", ""))
    assert tokenizer.decode(tokenizer.encode(plain)) == plain


def test_a_byte_without_a_token_is_said(tmp_path: Path) -> None:
    keys = sentence_piece_keys([("▁", -1.0, NORMAL)])
    keys["tokenizer.ggml.tokens"][3 + 0xE6] = "something else"
    with ModelFile.open(write_vocabulary(tmp_path / "x.gguf", keys)) as file:
        tokenizer = tokenizer_of(file)
    with pytest.raises(TextError, match="0xE6"):
        tokenizer.encode("日")
