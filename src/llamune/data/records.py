"""What an example is, whichever format it came in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ROLES", "Message", "Problem", "Record", "Source"]

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a record stands.

    Attributes:
        path: the file, as it was named.
        number: the record in that file, counted from 1; bad records count too.
        line: the line it starts on, counted from 1; None where the format has no lines.
    """

    path: str
    number: int
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else f"{self.path}#{self.number}"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn.

    Attributes:
        role: one of `ROLES`.
        content: what was said; may be empty beside tool calls.
        tool_calls: calls in OpenAI's form, each `{"type": "function", "function": {…}}`.
        name: the speaker or tool, where the file names one.
        tool_call_id: the call that a tool's message answers.
        train: whether the file asks to train on this turn; None leaves it to the recipe.
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    train: bool | None = None

    def for_template(self) -> dict[str, Any]:
        """Return the mapping that a chat template expects."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


@dataclass(frozen=True, kw_only=True)
class Record:
    """One example: a conversation, or plain text.

    Attributes:
        messages: the turns; empty for plain text.
        source: where it stands.
        text: plain text to continue from, without a chat template.
        tools: the tools on offer, as JSON schemas.
        rejected: the turns of the worse answer of a preference pair; `messages` holds the better.
        label: whether the answer was judged good, where the file says so (KTO).
        format: the name of the format it was read from.
        given: the Alpaca `input` that the last question ends with; empty elsewhere.
        weight: how many times an epoch holds it; a share below 1 picks by seed.
        extra: fields of the file that are no part of its format, kept for writing back.
    """

    messages: tuple[Message, ...] = ()
    source: Source
    text: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    format: str = ""
    given: str = ""
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> tuple[Message, ...]:
        """The assistant's turns."""
        return tuple(message for message in self.messages if message.role == "assistant")

    @property
    def question(self) -> str:
        """Everything before the last answer, as one text: what makes two questions the same."""
        parts = [f"{turn.role}: {said(turn)}" for turn in self.messages[: self.last_answer]]
        if self.tools:
            parts.insert(0, json.dumps(list(self.tools), ensure_ascii=False, sort_keys=True))
        return "\n".join(parts)

    @property
    def answer(self) -> str:
        """What the last answer says, or the plain text."""
        if self.text is not None:
            return self.text
        turns = self.messages[self.last_answer : self.last_answer + 1]
        return said(turns[0]) if turns else ""

    @property
    def last_answer(self) -> int:
        """The place of the assistant's last turn among the messages; their number if none."""
        places = [i for i, turn in enumerate(self.messages) if turn.role == "assistant"]
        return places[-1] if places else len(self.messages)

    @property
    def whole(self) -> str:
        """All that is said, turn by turn: what makes two records the same."""
        if self.text is not None:
            return self.text
        parts = [self.question, f"assistant: {self.answer}"]
        parts += [f"rejected: {said(turn)}" for turn in self.rejected]
        return "\n".join(parts)


def said(message: Message) -> str:
    """Return a turn's words and, after them, its tool calls as JSON."""
    if not message.tool_calls:
        return message.content
    calls = json.dumps(list(message.tool_calls), ensure_ascii=False, sort_keys=True)
    return f"{message.content}\n{calls}" if message.content else calls


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A record that cannot be read, and why.

    Attributes:
        source: where it stands.
        field: the field at fault, as a path such as `messages[1].role`; empty for the whole record.
        reason: what is wrong, in one line.
    """

    source: Source
    field: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.source} (record {self.source.number})"
        return f"{place}: {self.field}: {self.reason}" if self.field else f"{place}: {self.reason}"
