"""What two chat templates make of the same conversation, and what is wrong with one alone.

These are the ways in which a good fine-tune turns to gibberish when it is served: a BOS too many,
an answer whose end was never trained, a system prompt that one side drops, thoughts that only
one side knows.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamune.text.templates import ChatTemplate, prompt_ids
from llamune.text.tokenizer import Tokenizer

__all__ = ["EXAMPLE", "Difference", "compare", "faults", "thought_difference"]

# what commands show where a person gives no data
EXAMPLE: Sequence[Mapping[str, str]] = (
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "What is the capital of Japan?"},
    {"role": "assistant", "content": "The capital of Japan is Tokyo."},
    {"role": "user", "content": "フランスの首都は？"},
    {"role": "assistant", "content": "フランスの首都はパリです。"},
)
THOUGHT = "<think>"


@dataclass(frozen=True)
class Difference:
    """A place where two token sequences differ.

    Attributes:
        place: index of the first token that differs, in the first sequence.
        first: tokens of the first sequence there; may be empty.
        second: tokens of the second sequence there; may be empty.
    """

    place: int
    first: list[int]
    second: list[int]


def compare(first: Sequence[int], second: Sequence[int]) -> list[Difference]:
    """Return where two token sequences differ, in order; empty when they are the same."""
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return [
        Difference(start, list(first[start:stop]), list(second[other_start:other_stop]))
        for kind, start, stop, other_start, other_stop in matcher.get_opcodes()
        if kind != "equal"
    ]


def faults(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]] = EXAMPLE,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    stops: Sequence[str] = (),
) -> list[str]:
    """Return what is wrong with what a template makes of a conversation, each in one sentence.

    Args:
        template: the model's chat template.
        tokenizer: its tokenizer.
        messages: a conversation that ends with an answer.
        tools: functions that the model may call.
        stops: texts at which the runtime ends a generation besides the model's own tokens.

    Raises:
        TemplateError: the template refuses the conversation.
    """
    text = template.render(messages, tools=tools)
    ids = prompt_ids(template, tokenizer, messages, tools=tools)
    found = []
    bos = tokenizer.bos_id
    if bos is not None and ids[:2] == [bos, bos]:
        found.append("double BOS: the template writes the BOS token twice")
    written = bos is not None and text.startswith(tokenizer.piece(bos))
    if written and template.language == "Go" and tokenizer.adds_bos:
        found.append("double BOS: the TEMPLATE layer writes BOS and Ollama adds another")
    for message in messages:
        content = message.get("content")
        if isinstance(content, str) and content.strip() and content.strip() not in text:
            name = "system prompt" if message["role"] == "system" else f"{message['role']} message"
            found.append(f"lost {name}: {shortened(content)!r} is not in what is sent")
    if messages and messages[-1]["role"] == "assistant":
        found.extend(end_faults(tokenizer, text, str(messages[-1].get("content") or ""), stops))
    return found


def end_faults(tokenizer: Tokenizer, text: str, answer: str, stops: Sequence[str]) -> list[str]:
    """Return what is wrong with the end of the last answer."""
    after = text[text.rfind(answer.strip()) + len(answer.strip()) :]
    ids = tokenizer.encode(after)
    if tokenizer.stop_ids.intersection(ids) or any(stop in after for stop in stops):
        return []
    return ["missing end of turn: no token that stops a generation follows the last answer"]


def shortened(text: str, limit: int = 40) -> str:
    """Return a text, cut where it is long."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def thought_difference(first: str, second: str) -> str | None:
    """Return a sentence where only one of two texts knows thoughts."""
    if (THOUGHT in first) == (THOUGHT in second):
        return None
    return f"think block: only the {'first' if THOUGHT in first else 'second'} writes {THOUGHT}"
