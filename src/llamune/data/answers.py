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
from llamune.errors import LlamuneError

__all__ = ["Answer", "Template", "answers_in"]

# Private characters at both ends: no template trims them, no answer is expected to hold them.
MARK = "\ue0f1\ue0f2"
OTHER_MARK = "\ue0f3\ue0f4"
CALL_MARK = "zqCALLqz"
"""The mark in the arguments of calls: JSON would escape private characters."""


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
        end: where the turn ends if no end-of-turn token follows its words; None where the
            rendering does not tell.
        limit: before this the end-of-turn token lies, if there is one.
        is_last: whether no turn follows.
    """

    start: int
    said: int
    end: int | None
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
        start = self.start(place, begin)
        limit, end = self.limit(place, said)
        if self.turns[place].tool_calls:
            self.refuse_lost_calls(place, self.whole[start:limit])
        return Answer(
            start=bytes_before(self.whole, start),
            said=bytes_before(self.whole, said),
            end=None if end is None else bytes_before(self.whole, end),
            limit=bytes_before(self.whole, limit),
            is_last=place == len(self.turns) - 1,
        )

    def start(self, place: int, begin: int) -> int:
        """Return where the model begins to write a turn: where the engine's prompt for it ends.

        Args:
            place: the turn.
            begin: where its own words begin.
        """
        prompt = self.template.render(
            self.messages[:place], tools=self.tools, add_generation_prompt=True
        )
        if self.whole.startswith(prompt) and len(prompt) <= begin:
            return len(prompt)
        # The template tells early turns by what comes later: compare what stands between the turns.
        floor = self.words(place - 1)[1] if place else 0
        if self.turns[place].tool_calls:
            begin = self.begin_of_calls(place, floor, begin)
        between = self.whole[floor:begin].rstrip()
        return floor + len(between) if between and prompt.endswith(between) else begin

    def begin_of_calls(self, place: int, floor: int, begin: int) -> int:
        """Return where a turn of tool calls parts from the same turn with words instead."""
        plain = {**self.messages[place], "content": MARK}
        del plain["tool_calls"]
        marked = [*self.messages[:place], plain, *self.messages[place + 1 :]]
        try:
            other = self.template.render(marked, tools=self.tools)
        except LlamuneError:  # it minds that a tool then answers nothing
            return begin
        return max(floor, min(begin, common_prefix(self.whole, other)))

    def limit(self, place: int, said: int) -> tuple[int, int | None]:
        """Return before where the end-of-turn token lies, and where the turn ends without one.

        A turn has ended for certain where the conversation cut after it ends. A template that
        treats a last turn in its own way begins the whole otherwise: then the next turn's words
        are the limit.
        """
        calls = self.turns[place].tool_calls
        is_last = place == len(self.turns) - 1
        alone = (
            self.whole
            if is_last
            else self.template.render(self.messages[: place + 1], tools=self.tools)
        )
        closing = self.whole[said : len(alone)].rstrip()
        if self.whole.startswith(alone) and (closing or len(alone) == len(self.whole)):
            return len(alone), said + len(closing) if calls else said
        return max(said, self.words(place + 1)[0]), None if calls else said

    def words(self, place: int) -> tuple[int, int]:
        """Return where the words of a turn begin and end, in characters; the arguments of calls.

        Raises:
            DataError: the template leaves the turn out.
        """
        mark = OTHER_MARK if MARK[0] in self.turns[place].content else MARK
        turn = dict(self.messages[place])
        if not turn.get("tool_calls") or turn["content"]:
            turn["content"] = mark
        if turn.get("tool_calls"):
            turn["tool_calls"] = [marked_call(call) for call in turn["tool_calls"]]
        marked = [*self.messages[:place], turn, *self.messages[place + 1 :]]
        other = self.template.render(marked, tools=self.tools)
        if (CALL_MARK if turn.get("tool_calls") else mark) not in other:
            raise self.left_out(place, "")
        begin = common_prefix(self.whole, other)
        return begin, len(self.whole) - common_suffix(self.whole[begin:], other[begin:])

    def refuse_lost_calls(self, place: int, written: str) -> None:
        """Refuse a template that does not write out every call.

        Raises:
            DataError: the name of a call is not in what the turn became.
        """
        for call in self.turns[place].tool_calls:
            name = call["function"]["name"]
            if name not in written:
                raise self.left_out(place, f"the call of {name!r} in ")

    def left_out(self, place: int, what: str) -> DataError:
        """Return what to raise for a turn, or part of one, that the template leaves out."""
        turn = self.turns[place]
        if turn.tool_calls and not what:
            what = f"the call of {turn.tool_calls[0]['function']['name']!r} in "
        hint = "train on the last answer only (`--train-on last`), or remove such turns"
        if what:
            hint = "this model was not made for tool calls: remove such records"
        return DataError(
            f"the chat template leaves out {what}turn {place + 1} ({turn.role})", hint=hint
        )


def marked_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call with a mark for its arguments."""
    return {**call, "function": {**call["function"], "arguments": {CALL_MARK: CALL_MARK}}}


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
