"""A chat template: what turns messages into the text that a served model really gets."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from llamune.errors import UnsupportedError
from llamune.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "prompt_ids"]

Message = Mapping[str, Any]
THOUGHT = re.compile(r"\s*<think>.*?(</think>\s*|\Z)", re.DOTALL)


class ChatTemplate(ABC):
    """What turns messages into text. The kinds differ in the language of the template.

    Args:
        text: the template.
        where: the file, and the key or layer in it, for messages.
        system: the system prompt that goes before messages that bring none.
        opening: messages that go before every conversation.
        hides_thoughts: whether earlier answers lose their `<think>` blocks.
        notes: what a person should know about the choice of this template.
    """

    source: str  # `gguf`, `ollama` or `named`
    language: str  # `Jinja` or `Go`

    def __init__(
        self,
        text: str,
        *,
        where: str,
        system: str | None = None,
        opening: Sequence[Message] = (),
        hides_thoughts: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        self.text = text
        self.where = where
        self.system = system
        self.opening = tuple(opening)
        self.hides_thoughts = hides_thoughts
        self.notes = tuple(notes)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """Return the text that the messages become, the layers of the store included.

        Args:
            messages: `role`, `content` and what else the template reads.
            tools: functions that the model may call, in OpenAI's form.
            add_generation_prompt: whether the text ends where the answer begins.
            **variables: what else the template reads, such as `enable_thinking`.

        Raises:
            TemplateError: the template refuses the messages, is broken, or reached a limit.
        """
        return self.render_prepared(
            self.prepared(messages),
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )

    @abstractmethod
    def render_prepared(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """Return the text of messages to which nothing is added any more."""

    def prepared(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the messages with what the runtime puts before them.

        Source: Ollama, `ChatHandler` and `filterThinkTags` (server/routes.go).
        """
        found = [plain(message) for message in (*self.opening, *messages)]
        if self.system and messages and messages[0].get("role") != "system":
            found.insert(0, {"role": "system", "content": self.system})
        if self.hides_thoughts:
            users = [place for place, one in enumerate(found) if one.get("role") == "user"]
            for message in found[: users[-1] if users else 0]:
                if message.get("role") == "assistant" and isinstance(message.get("content"), str):
                    message["content"] = without_thought(message["content"])
        return found


def plain(message: Message) -> dict[str, Any]:
    """Return a copy of a message, text that comes in parts joined to one.

    Raises:
        UnsupportedError: a part is no text.
    """
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    kinds = {
        str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__
        for part in content
    } - {"text"}
    if kinds:
        raise UnsupportedError(f"a message holds a part of type {min(kinds)!r}, not text")
    return {**message, "content": "\n".join(str(part.get("text", "")) for part in content)}


def without_thought(content: str) -> str:
    """Return an answer without the `<think>` block at its start."""
    found = THOUGHT.match(content)
    return content[found.end() :] if found else content


def prompt_ids(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
) -> list[int]:
    """Return the token ids of a conversation, BOS exactly once where the file asks for it."""
    text = template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
    ids = tokenizer.encode(text, parse_special=True)
    if tokenizer.adds_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids.insert(0, tokenizer.bos_id)
    return ids
