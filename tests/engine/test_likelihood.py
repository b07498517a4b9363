"""How likely given texts are, and texts of token ids."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llamune.engine import NativeModel, open_engine, token_log_probabilities
from llamune.store import resolve

IDS = [1, 4093, 198, 28120, 2, 198, 504, 3575]


@pytest.fixture(scope="module")
def model(starter_path: Path) -> Iterator[NativeModel]:
    with NativeModel(starter_path) as opened:
        yield opened


def test_log_probabilities_are_those_of_the_whole_distributions(model: NativeModel):
    (logits,) = model.logits([IDS], n_threads=1)
    found = token_log_probabilities(model, IDS, n_alternatives=3, n_threads=1)
    assert len(found) == len(IDS)
    assert math.isnan(found[0].log_probability)
    for position, token in enumerate(found[1:]):
        row = logits[position].astype(np.float64)
        row -= row.max()
        row -= np.log(np.exp(row).sum())
        assert token.log_probability == pytest.approx(row[IDS[position + 1]], abs=1e-6)
        assert token.alternatives[0][1] == pytest.approx(row.max(), abs=1e-6)
        assert len(token.alternatives) == 3


def test_chunks_join_to_the_whole(model: NativeModel):
    (whole,) = model.logits([IDS], n_threads=1, kv_type="f32", flash=False, n_batch=4)
    pieces = model.logit_chunks(IDS, n_threads=1, kv_type="f32", flash=False, n_batch=4)
    chunks = [chunk.copy() for chunk in pieces]  # each is valid until the next
    assert [len(chunk) for chunk in chunks] == [4, 4]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


@pytest.mark.parametrize("text", ["hello world", "日本語のテキスト。", "a\n\tb 🦊", ""])
def test_ids_turn_back_into_text(model: NativeModel, text: str):
    assert model.text(model.tokenize(text)) == text


def test_embeddings_tell_topics_apart(starter_path: Path):
    with open_engine(resolve(str(starter_path)), n_threads=1, embeddings=True) as engine:
        found = engine.embed(["the cat sleeps", "a cat is sleeping", "tax law of 1986"])
    assert found.n_tokens > 9
    one, same, other = (np.asarray(v) / np.linalg.norm(v) for v in found.vectors)
    assert one @ same > one @ other
