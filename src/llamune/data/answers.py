"""Where each answer stands in a rendered conversation, for any chat template.

Found by rendering, not by looking for marker strings. A turn is rendered once more with a mark
in its place: where the two texts part and meet again is what the turn says. The prompt that
the engine will get for the turn (the turns before it, with the generation prompt) says where
the model begins to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llamune.data.errors import DataError
from llamune.data.records import Message, Record

__all__ = ["Answer", "Template", "answers_in"]

# Private characters at both ends: no template trims them, no answer is expected to hold them.
MARK = "\ue0f1\ue0f2"
OTHER_MARK = "\ue0f3\ue0f4"


class Template(Protocol):
    """What rendering asks of a chat template; `llamune.text.ChatTemplate` is one."""

    @property
    def text(self) -> str: ...  # noqa: D102
    def render(  # noqa: D102
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        add_generation_prompt: bool = ...,
    ) -> str: ...


@dataclass(frozen=True)
class Answer:
    """Where one answer stands in the rendered text, in UTF-8 bytes.

    Attributes:
        start: where the model begins to write.
        said: where the words of the turn end.
        limit: where the words of the next turn begin; the end-of-turn token lies before.
        is_last: whether no turn follows.
    """

    start: int
    said: int
    limit: int
    is_last: bool


def answers_in(record: Record, whole: str, template: Template, *, last_only: bool) -> list[Answer]:
    """Return the answers to train on, in order.

    Args:
        record: the conversation.
        whole: what the template makes of it.
        template: the chat template.
        last_only: whether only the last answer is wanted.

    Raises:
        DataError: the template leaves a turn out.
    """
    places = [
        place
        for place, turn in enumerate(record.messages)
        if turn.role == "assistant"
        and turn.train is not False
        and (not last_only or place == record.last_answer)
    ]
    view = View(record, whole, template)
    return [view.answer(place) for place in places]


class View:
    """A rendered conversation, to be asked where its turns stand."""

    def __init__(self, record: Record, whole: str, template: Template) -> None:
        self.messages = [message.for_template() for message in record.messages]
        self.turns: Sequence[Message] = record.messages
        self.tools = [dict(tool) for tool in record.tools] or None
        self.whole = whole
        self.template = template

    def answer(self, place: int) -> Answer:
        """Return where an assistant's turn stands.

        Raises:
            DataError: the template leaves it out.
        """
        begin, said = self.words(place)
        for call in self.turns[place].tool_calls:
            name = call["function"]["name"]
            if name not in self.whole[begin:said]:
                raise DataError(
                    f"the chat template leaves out the call of {name!r} in turn {place + 1}",
                    hint="this model was not made for tool calls: remove such records",
                )
        is_last = place == len(self.turns) - 1
        limit = len(self.whole) if is_last else max(said, self.words(place + 1)[0])
        floor = self.words(place - 1)[1] if place else 0
        prompt = self.template.render(
            self.messages[:place], tools=self.tools, add_generation_prompt=True
        )
        start = common_prefix(self.whole, prompt)
        if not floor <= start <= begin:
            # The template tells early turns by what comes later, so the prompt differs before.
            start = begin
        return Answer(
            bytes_before(self.whole, start),
            bytes_before(self.whole, said),
            bytes_before(self.whole, limit),
            is_last,
        )

    def words(self, place: int) -> tuple[int, int]:
        """Return where the words of a turn begin and end, in characters.

        Raises:
            DataError: the template leaves the turn out.
        """
        mark = OTHER_MARK if MARK[0] in self.turns[place].content else MARK
        plain = {**self.messages[place], "content": mark}
        plain.pop("tool_calls", None)
        marked = [*self.messages[:place], plain, *self.messages[place + 1 :]]
        other = self.template.render(marked, tools=self.tools)
        if mark not in other:
            raise DataError(
                f"the chat template leaves out turn {place + 1} ({self.turns[place].role})",
                hint="train on the last answer only (`--train-on last`), or remove such turns",
            )
        begin = common_prefix(self.whole, other)
        return begin, len(self.whole) - common_suffix(self.whole[begin:], other[begin:])


def bytes_before(text: str, place: int) -> int:
    """Return how many UTF-8 bytes stand before a character."""
    return place if text.isascii() else len(text[:place].encode())


def common_prefix(first: str, second: str) -> int:
    """Return how many characters two texts share from the start."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_suffix(first: str, second: str) -> int:
    """Return how many characters two texts share at the end."""
    return common_prefix(first[::-1], second[::-1])
