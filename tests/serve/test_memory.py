"""What a model is expected to take is the plan's figure, for the server's own settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llamune.errors import LlamuneError
from llamune.serve.memory import memory_needed
from llamune.store import Model, publish_model
from tests.serve.fakes import tiny_gguf

CACHE_BYTES_A_TOKEN = 30 * 2 * 3 * 64 * 2  # blocks, keys and values, heads, their size, f16


@pytest.fixture
def starter(starter_path: Path) -> Model:
    return publish_model("starter", starter_path)


def test_context_and_parallel_requests_cost_their_cache(starter: Model) -> None:
    small = memory_needed(starter, n_ctx=512, n_parallel=1)
    assert small > starter.size
    wide = memory_needed(starter, n_ctx=512, n_parallel=5)
    assert wide - small >= 4 * 512 * CACHE_BYTES_A_TOKEN
    long = memory_needed(starter, n_ctx=2560, n_parallel=1)
    assert abs(long - wide) < 1e6


def test_a_model_of_an_unknown_family_is_judged_by_its_size(tmp_path: Path) -> None:
    model = publish_model("tiny", tiny_gguf(tmp_path, "tiny"))
    assert memory_needed(model, n_ctx=None, n_parallel=4) == int(model.size * 1.3)


def test_a_context_that_is_no_number_is_refused(starter: Model) -> None:
    model = replace(starter, parameters={"num_ctx": "many"})
    with pytest.raises(LlamuneError, match="num_ctx"):
        memory_needed(model, n_ctx=None, n_parallel=1)
