"""The chat templates that llama.cpp publishes: the same text as its own engine makes, or a refusal.

Nothing in between: a rendering that differs by one space trains another model than is served.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llamune.errors import LlamuneError
from llamune.text import JinjaTemplate
from tests.text.published import models
from tests.text.rendering import CONVERSATIONS, renderer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# what we refuse and llama.cpp renders: names a variable that nobody gives; needs llama.cpp's
# rewriting of old Gemma 4 conversations
REFUSED = {
    *(("fireworks-ai-llama-3-firefunction-v2", name) for name in CONVERSATIONS),
    ("google-gemma-4-31B-it-interleaved", "a call"),
    ("google-gemma-4-31B-it-interleaved", "after a call"),
}


def test_every_template_renders_as_in_llama_cpp(starter_path: Path) -> None:
    refused, n_same = set(), 0
    for path in sorted((models() / "templates").glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        ours = JinjaTemplate(text, where=path.name, bos="<|im_start|>", eos="<|im_end|>")
        with renderer(starter_path, text) as judge:
            for name, (messages, tools) in CONVERSATIONS.items():
                theirs = judge.render(messages, tools)
                if theirs is None:
                    continue  # their parser of answers gives up on some templates with tools
                try:
                    found = ours.render(messages, tools=tools, add_generation_prompt=True)
                except LlamuneError:
                    refused.add((path.stem, name))
                    continue
                assert found == theirs, (path.name, name)
                n_same += 1
    assert refused == REFUSED
    assert n_same > 400
