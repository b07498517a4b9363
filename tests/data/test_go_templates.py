"""Ollama's Go templates: the mask is exact in these too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from llamune.data import Record, render
from llamune.text import GoTemplate
from tests.data.fakes import ByteTokens
from tests.data.test_rendering import TWO_TURNS, conversation

PROMPT_AND_RESPONSE = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
WITHOUT_RESPONSE = PROMPT_AND_RESPONSE.removesuffix("{{ .Response }}<|im_end|>\n")
SYSTEM_IN_QUESTION = (
    "<start_of_turn>user\n{{ if .System }}{{ .System }} {{ end }}{{ .Prompt }}<end_of_turn>\n"
    "<start_of_turn>model\n{{ .Response }}<end_of_turn>\n"
)
OVER_MESSAGES = (
    "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}"
    "<|im_start|>{{ .Role }}\n{{ .Content }}"
    '{{ if not (and $last (eq .Role "assistant")) }}<|im_end|>\n{{ end }}'
    '{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant\n{{ end }}{{- end }}'
)
BRACKETS = "[INST] {{ if .System }}{{ .System }} {{ end }}{{ .Prompt }} [/INST]{{ .Response }}</s>"

CASES = [
    (PROMPT_AND_RESPONSE, "<|im_end|>"),
    (WITHOUT_RESPONSE, ""),
    (SYSTEM_IN_QUESTION, "<end_of_turn>"),
    (OVER_MESSAGES, "<|im_end|>"),
    (BRACKETS, "</s>"),
]
SYSTEM = conversation(
    ("system", "Be kind."),
    ("user", "a?"),
    ("assistant", "Yes."),
    ("user", "b?"),
    ("assistant", "No."),
)


class Tokens(ByteTokens):
    """Single bytes, with the list of token texts that a Go template asks for."""

    @property
    def vocabulary(self) -> Any:
        size = max(self.pieces) + 1
        return SimpleNamespace(tokens=[self.pieces.get(number, "") for number in range(size)])


def runs(record: Record, text: str) -> list[str]:
    """Return the trained runs of a record."""
    tokens = Tokens()
    ready = render(record, GoTemplate(text, tokenizer=cast(Any, tokens), where="a layer"), tokens)
    found: list[list[int]] = [[]]
    for token, trained in zip(ready.ids, ready.trained, strict=True):
        if trained:
            found[-1].append(token)
        elif found[-1]:
            found.append([])
    return [tokens.spell(run) for run in found if run]


@pytest.mark.parametrize(("text", "end"), CASES)
def test_each_answer_and_its_end_are_trained(text: str, end: str) -> None:
    first, last = runs(TWO_TURNS, text)
    assert first.strip() == f"晴れ。{end}"
    assert last.strip() in {f"Snow.{end}", "Snow.</s>"}


@pytest.mark.parametrize(("text", "end"), CASES)
def test_with_a_system_turn_too(text: str, end: str) -> None:
    first, last = runs(SYSTEM, text)
    assert first.strip() == f"Yes.{end}"
    assert last.strip() in {f"No.{end}", "No.</s>"}
