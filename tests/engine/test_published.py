"""A tuned model of the library answers with its adapter; base and tuned share one copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.engine import GenerateOptions, adapters_of, open_engine
from llamune.store import library, publish_adapter, resolve
from tests.engine.test_embedded import write_random_adapter

GREEDY = GenerateOptions(max_tokens=8, temperature=0)
QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]


@pytest.fixture
def tuned(starter_path: Path, tmp_path: Path) -> str:
    """Publish the starter with a random adapter as `tuned`."""
    base = resolve(str(starter_path))
    adapter = write_random_adapter(tmp_path / "a.gguf", starter_path, seed=0)
    publish_adapter("tuned", base, adapter, {})
    return "tuned"


def test_a_published_adapter_acts(
    starter_path: Path, tuned: str, capsys: pytest.CaptureFixture[str]
):
    options = ["--temperature", "0", "--threads", "1", "--max-tokens", "8"]
    question = "What is the capital of Japan?"
    assert run(["run", str(starter_path), question, *options]) == 0
    bare = capsys.readouterr().out
    assert run(["run", tuned, question, *options]) == 0
    assert capsys.readouterr().out != bare


def test_base_and_tuned_answer_from_one_loaded_copy(starter_path: Path, tuned: str):
    base, model = resolve(str(starter_path)), resolve(tuned)
    assert model.store == library()
    (adapter,) = adapters_of(model)
    with open_engine(model, adapters=[adapter], n_ctx=256, n_threads=1) as engine:
        assert engine.adapters == (adapter.name,)  # its own adapter is not loaded twice
        with_adapter = engine.answer(QUESTION, GREEDY).text
        assert engine.as_model(base).answer(QUESTION, GREEDY).text != with_adapter
        assert engine.as_model(model).answer(QUESTION, GREEDY).text == with_adapter
