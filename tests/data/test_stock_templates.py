"""The templates that llama.cpp keeps of published models: the mask is exact in all of them.

Slow: they come out of a source package, see `tests.text.published`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamune.data import Message, Record, Source, render
from llamune.errors import LlamuneError
from llamune.text import JinjaTemplate
from tests.data.fakes import ByteTokens
from tests.text.published import models

pytestmark = pytest.mark.slow

FAMILIES = {  # the families that are supported, and one end-of-turn token of each
    "meta-llama-Llama-3.1-8B-Instruct": "<|eot_id|>",
    "meta-llama-Llama-3.2-3B-Instruct": "<|eot_id|>",
    "google-gemma-2-2b-it": "<end_of_turn>",
    "Qwen-Qwen2.5-7B-Instruct": "<|im_end|>",
    "Qwen-Qwen3-0.6B": "<|im_end|>",
    "microsoft-Phi-3.5-mini-instruct": "<|end|>",
    "mistralai-Mistral-Nemo-Instruct-2407": "</s>",
    "Mistral-Small-3.2-24B-Instruct-2506": "</s>",
    "HuggingFaceTB-SmolLM3-3B": "<|im_end|>",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "<｜end▁of▁sentence｜>",
    "openai-gpt-oss-120b": "<|end|>",
}
SPECIAL = re.compile(
    r"<\|[^|>\s]{1,40}\|>|<｜[^｜]{1,40}｜>|</?s>|\[/?[A-Z_]{3,30}\]|<(?:start|end)_of_turn>"
)
ENDS = re.compile(
    r"^(?:<\|(?:im_end|eot_id|eom_id|end|return|call)\|>|<end_of_turn>|</s>|<｜end▁of▁sentence｜>)$"
)
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Kyoto"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "its name"}},
            "required": ["city"],
        },
    },
}


class TemplateTokens(ByteTokens):
    """Single bytes, and one token for each special text that a template writes."""

    def __init__(self, template: str) -> None:
        super().__init__()
        found = sorted({*SPECIAL.findall(template), "</s>"})
        self.specials = {text: 256 + place for place, text in enumerate(found)}
        self.bos_id = None
        self.eos_id = self.specials["</s>"]
        self.stop_ids = frozenset(n for text, n in self.specials.items() if ENDS.match(text))
        self.control_ids = frozenset(self.specials.values())
        self.pieces = {number: text for text, number in self.specials.items()}


def chat(*, system: bool) -> Record:
    turns = [Message(role="system", content="Be kind.")] if system else []
    for question, answer in (("日本の首都は？", "東京です。"), ("And of Norway?", "Oslo.")):
        turns += [
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ]
    return Record(messages=tuple(turns), source=Source(path="a", number=1))


TOOLS = Record(
    source=Source(path="a", number=1),
    tools=(TOOL,),
    messages=(
        Message(role="user", content="京都の天気は？"),
        Message(role="assistant", content="", tool_calls=(CALL,)),
        Message(role="tool", content="cloudy", name="weather", tool_call_id="abcdefghi"),
        Message(role="assistant", content="くもりです。"),
    ),
)


def runs(name: str, record: Record) -> list[str]:
    """Return the trained runs of a record; skip what the template itself refuses."""
    text = (models() / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    template = JinjaTemplate(text, where=name, eos=FAMILIES.get(name, "</s>"))
    tokens = TemplateTokens(text)
    try:
        ready = render(record, template, tokens)
    except LlamuneError as error:
        pytest.skip(error.message)
    found: list[list[int]] = [[]]
    for token, trained in zip(ready.ids, ready.trained, strict=True):
        if trained:
            found[-1].append(token)
        elif found[-1]:
            found.append([])
    return [tokens.spell(run) for run in found if run]


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_each_answer_and_its_end_are_trained_and_nothing_else(name: str, system: bool) -> None:
    first, last = runs(name, chat(system=system))
    for run, answer in ((first, "東京です。"), (last, "Oslo.")):
        before, found, after = run.partition(answer)
        assert found
        assert ENDS.match(after)
        assert "東京" not in before
        assert "Norway" not in before + after


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_calls_are_trained_and_what_the_tool_says_is_not(name: str) -> None:
    first, last = runs(name, TOOLS)
    assert "weather" in first
    assert "Kyoto" in first
    assert "cloudy" not in first + last
    assert "くもりです。" in last
    assert first.count("weather") == 1


def every_template() -> list[Path]:
    return sorted((models() / "templates").glob("*.jinja"))


def test_no_published_template_trains_on_a_question() -> None:
    n_rendered = 0
    for path in every_template():
        text = path.read_text(encoding="utf-8")
        tokens = TemplateTokens(text)
        template = JinjaTemplate(text, where=path.name, eos="</s>")
        for record in (chat(system=False), TOOLS):
            try:
                ready = render(record, template, tokens)
            except LlamuneError:
                continue
            n_rendered += 1
            pairs = zip(ready.ids, ready.trained, strict=True)
            trained = tokens.spell([token for token, kept in pairs if kept])
            for words in ("日本の首都", "And of", "京都の天気", "cloudy"):
                assert words not in trained, path.name
            for answer in record.answers:
                assert answer.content in trained, path.name
    assert n_rendered > 100
