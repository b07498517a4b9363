"""Go chat templates out of an Ollama model's TEMPLATE layer, for prompts and whole conversations.

Ollama's templates make prompts only: most write the start of the next answer at the end whatever
comes before. A whole conversation, as training needs it, is the prompt for its last answer, the
answer, and the token that ends it, found by asking what the template writes after an answer that
is not the last message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from llamune.text.errors import TemplateError
from llamune.text.ollama import OllamaTemplate
from llamune.text.templates import ChatTemplate
from llamune.text.tokenizer import Tokenizer

__all__ = ["GoTemplate"]

NEXT = "llamune next turn"  # messages that no conversation holds
ANSWER = "llamune answer"


class GoTemplate(ChatTemplate):
    """A Go chat template.

    Args:
        text: the template.
        tokenizer: the model's tokenizer, which knows the tokens that end an answer.
        **layers: what `ChatTemplate` takes.
    """

    source = "ollama"
    language = "Go"

    def __init__(self, text: str, *, tokenizer: Tokenizer, **layers: Any) -> None:
        super().__init__(text, **layers)
        self.tokenizer = tokenizer
        try:
            self.template = OllamaTemplate(text)
        except TemplateError as error:
            raise TemplateError(f"{self.where}: {error.message}", hint=error.hint) from error

    def render_prepared(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """Return the prompt, or the whole conversation where it ends with an answer."""
        think = variables.get("enable_thinking", self.thinks or None)
        last = messages[-1].get("role") if messages else None
        if add_generation_prompt or last != "assistant":
            return self.prompt(messages, tools, think)
        prompt = self.prompt(messages[:-1], tools, think)
        followed = self.prompt([*messages, {"role": "user", "content": NEXT}], tools, think)
        return prompt + self.answer(messages[-1], prompt, followed)

    @property
    def thinks(self) -> bool:
        """Whether the template knows thoughts: then Ollama lets the model think unless told not."""
        return "thinking" in self.template.names

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        think: bool | None,
    ) -> str:
        """Return what Ollama would send."""
        try:
            return self.template.prompt(messages, tools=tools, think=think)
        except TemplateError as error:
            raise TemplateError(
                f"{self.where}: the chat template failed: {error.message}", hint=error.hint
            ) from error

    def answer(self, message: Mapping[str, Any], prompt: str, followed: str) -> str:
        """Return what the model would have written for a message, its end included.

        Args:
            message: the last answer.
            prompt: the text before it.
            followed: the text with another message after it.
        """
        content = str(message.get("content") or "")
        written = followed[len(prompt) :] if followed.startswith(prompt) else None
        if written is None:
            if message.get("tool_calls"):
                raise TemplateError(
                    f"{self.where}: the template writes an earlier tool call otherwise than the "
                    "last one, so what the model should have written cannot be told"
                )
            return content + self.answer_end
        at = written.find(content)
        after = at + len(content) if at >= 0 else 0
        ends = [
            (place, end)
            for end in self.ends
            if (place := written.find(end, after)) >= 0 and NEXT not in written[:place]
        ]
        if ends:
            place, end = min(ends)
            return written[: place + len(end)]
        return written[:after] + self.end_of_text

    @cached_property
    def ends(self) -> list[str]:
        """The texts of the tokens that end a generation."""
        tokens = self.tokenizer.vocabulary.tokens
        return sorted(tokens[id_] for id_ in self.tokenizer.stop_ids)

    @property
    def end_of_text(self) -> str:
        """The text of the EOS token."""
        eos = self.tokenizer.eos_id
        return "" if eos is None else self.tokenizer.vocabulary.tokens[eos]

    @cached_property
    def answer_end(self) -> str:
        """What ends an answer in a plain conversation."""
        messages = [
            {"role": "user", "content": "llamune question"},
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": NEXT},
        ]
        written = self.prompt(messages, None, None).partition(ANSWER)[2].partition(NEXT)[0]
        found = [(place, end) for end in self.ends if (place := written.find(end)) >= 0]
        if not found:
            return self.end_of_text
        place, end = min(found)
        return written[: place + len(end)]
