"""The starter model's tokenizer and template, against llama.cpp and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.gguf import ModelFile
from llamune.store import resolve
from llamune.text import ChatTemplate, TextError, Tokenizer, prompt_ids, template_of, tokenizer_of
from tests.text.corpus import HARD_TEXTS, hard_text
from tests.text.oracle import Oracle, oracle

# bytes for which this vocabulary has no token: llama.cpp drops them without a word, and so do we
LOST_BYTES = bytes.fromhex("04061314161dc0c1f1f2f5f6f7f8f9fafbfcfdfeff")


@pytest.fixture(scope="module")
def tokenizer(starter_path: Path) -> Tokenizer:
    with ModelFile.open(starter_path) as file:
        return tokenizer_of(file)


@pytest.fixture(scope="module")
def template(starter_path: Path) -> ChatTemplate:
    with ModelFile.open(starter_path) as file:
        return template_of(resolve(str(starter_path)), file, tokenizer_of(file))


@pytest.fixture(scope="module")
def judge(starter_path: Path) -> Iterator[Oracle]:
    with oracle(starter_path) as found:
        yield found


@pytest.mark.parametrize("parse_special", [True, False])
@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_have_llama_cpps_ids(
    tokenizer: Tokenizer, judge: Oracle, text: str, parse_special: bool
) -> None:
    ours = tokenizer.encode(text, parse_special=parse_special)
    assert ours == judge.encode(text, parse_special=parse_special)


@settings(max_examples=400)
@given(text=hard_text(), parse_special=st.booleans(), add_special=st.booleans())
def test_any_text_has_llama_cpps_ids(
    starter_path: Path,
    tokenizer: Tokenizer,
    judge: Oracle,
    text: str,
    parse_special: bool,
    add_special: bool,
) -> None:
    ours = tokenizer.encode(text, parse_special=parse_special, add_special=add_special)
    assert ours == judge.encode(text, parse_special=parse_special, add_special=add_special)


@settings(max_examples=200)
@given(text=hard_text())
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    kept = text.encode().translate(None, LOST_BYTES)
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.token_bytes, ids)) == kept
    assert tokenizer.decode(ids) == kept.decode(errors="replace")


def test_every_piece_and_every_end_is_llama_cpps(tokenizer: Tokenizer, judge: Oracle) -> None:
    assert tokenizer.n_vocab == judge.n_tokens
    assert tokenizer.stop_ids == judge.ends()
    assert all(tokenizer.token_bytes(id_) == judge.piece(id_) for id_ in range(judge.n_tokens))


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert 2 in tokenizer.stop_ids
    assert {0, 1, 2} <= tokenizer.control_ids
    assert not tokenizer.adds_bos


def test_control_tokens_are_text_when_not_parsed(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_end|>") == [2]
    assert 2 not in tokenizer.encode("<|im_end|>", parse_special=False)


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match=r"character 2 .*U\+D83D"):
        tokenizer.encode("ab\ud83d")


def test_the_template_frames_each_message(template: ChatTemplate) -> None:
    rendered = template.render(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "やあ"}],
        add_generation_prompt=True,
    )
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nやあ<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_prompt_ids_are_those_of_the_rendered_text(
    template: ChatTemplate, tokenizer: Tokenizer
) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    ids = prompt_ids(template, tokenizer, messages, add_generation_prompt=True)
    assert tokenizer.decode(ids) == template.render(messages, add_generation_prompt=True)
    assert ids[0] == tokenizer.id_of("<|im_start|>")
