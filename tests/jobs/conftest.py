"""A tiny base file and a few examples, for whole jobs that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WORDS = ("red", "green", "blue", "black", "white", "brown", "pink", "grey")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("base"), "llama", "Q8_0")


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"instruction": f"{one} or {other}?", "input": "", "output": one}
        for one in WORDS
        for other in WORDS
        if one != other
    ]
    path = tmp_path_factory.mktemp("data") / "colours.json"
    path.write_text(json.dumps(rows))
    return path
