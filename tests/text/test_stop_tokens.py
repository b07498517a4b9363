"""The token that ends a trained answer stops a generation: found out by generating."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamune.engine import GenerateOptions, open_engine
from llamune.gguf import ModelFile
from llamune.store import Model
from llamune.text import faults, template_of, tokenizer_of
from tests.text.go_cases import TEMPLATES

QUESTION = {"role": "user", "content": "Say hi in one word."}
ANSWER = {"role": "assistant", "content": "Hi!"}


@pytest.mark.parametrize("layer", [None, TEMPLATES["chatml"]], ids=["the file's own", "a layer"])
def test_the_trained_end_stops_a_generation(starter_path: Path, layer: str | None) -> None:
    model = Model(ref="m", paths=(starter_path,), template=layer)
    with ModelFile.open(starter_path) as file:
        tokenizer = tokenizer_of(file)
        template = template_of(model, file, tokenizer)
    assert faults(template, tokenizer, [QUESTION, ANSWER]) == []
    whole = template.render([QUESTION, ANSWER])
    after_answer = tokenizer.encode(whole.partition("Hi!")[2])
    assert after_answer[0] in tokenizer.stop_ids

    options = GenerateOptions(max_tokens=120, temperature=0.0, seed=1)
    with open_engine(model, n_ctx=256, n_threads=1) as engine:
        pieces = list(engine.chat([QUESTION], options))
    assert pieces[-1].finish_reason == "stop"
    assert tokenizer.piece(after_answer[0]) not in "".join(piece.text for piece in pieces)
