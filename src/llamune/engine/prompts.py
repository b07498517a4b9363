"""Prompts that we write ourselves: by a template that is not the file's, and with a forced call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llamune.engine.calls import TaggedCalls
from llamune.engine.options import Messages, Tools
from llamune.gguf import ModelFile
from llamune.store import Model

if TYPE_CHECKING:
    from llamune.text import ChatTemplate, Tokenizer

__all__ = ["Prompts", "prompts_of"]

NAME = "llamune_call"  # a function that no model offers
NEXT = "llamune next turn"


@dataclass(frozen=True)
class Prompts:
    """Writes prompts by the template that a model is served with."""

    template: ChatTemplate
    tokenizer: Tokenizer

    @property
    def is_of_the_file(self) -> bool:
        """Whether the template is the model file's own."""
        return self.template.source == "gguf"

    @property
    def takes_tools(self) -> bool:
        """Whether the template writes the tools of a request into the prompt."""
        from llamune.text import GoTemplate

        if isinstance(self.template, GoTemplate):
            return "tools" in self.template.template.names
        return "tools" in self.template.text

    def ids(self, messages: Messages, tools: Tools) -> list[int]:
        """Return the token ids of a conversation, up to where the answer begins.

        Raises:
            TemplateError: the template refuses the messages, or is broken.
        """
        from llamune.text import prompt_ids

        return prompt_ids(
            self.template, self.tokenizer, messages, tools=tools or None, add_generation_prompt=True
        )

    def call_reader(self, tools: Tools) -> TaggedCalls:
        """Return what finds the calls in an answer to one of these prompts."""
        return TaggedCalls(tools, self.call_tag)

    @cached_property
    def call_tag(self) -> str:
        """What the template writes before a call of a function, up to its first brace.

        Models write their calls as their template does; Ollama finds them by this text, and by
        the brace where there is none.

        Source: Ollama, `parseTag` (tools/template.go), which reads it off the template's tree.
        """
        question = {"role": "user", "content": "llamune question"}
        call = {"function": {"name": NAME, "arguments": {}}}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        before = self.template.render([question], add_generation_prompt=True)
        after = self.template.render([question, called, {"role": "user", "content": NEXT}])
        written, name, _ = after[shared_length(before, after) :].partition(NAME)
        return (written.partition("{")[0].strip() if name else "") or "{"


def shared_length(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their start."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def prompts_of(model: Model) -> Prompts:
    """Return what writes a model's prompts.

    Raises:
        TemplateError: its template is missing or broken.
        UnsupportedError: the runtime renders this model by code of its own.
    """
    from llamune.text import template_of, tokenizer_of

    with ModelFile.open(model.paths) as file:
        tokenizer = tokenizer_of(file)
        return Prompts(template_of(model, file, tokenizer), tokenizer)
