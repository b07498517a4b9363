"""From a record's fields to a `Record`: the formats people publish, told apart by their fields.

Source: facts on Alpaca, ShareGPT, OpenAI, TRL and LLaMA-Factory formats, read from their docs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from llamune.data.records import ROLES, Message, Record, Source

__all__ = ["SHAPES", "BadRecord", "parse_record", "shape_of"]

Fields = Mapping[str, Any]

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}
OPENAI_ROLES = {role: role for role in ROLES} | {"developer": "system", "function": "tool"}
HALF = re.compile("[\ud800-\udfff]")
PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
ALPACA_INPUTS = ("input", "context")
ALPACA_OUTPUTS = ("output", "response")


class BadRecord(ValueError):  # noqa: N818  becomes a `Problem`, is never shown as an error
    """A record that does not fit its format.

    Args:
        field: the field at fault.
        reason: what is wrong with it.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def shape_of(fields: Fields) -> str:
    """Return the name of the format that a record's fields follow.

    Raises:
        BadRecord: they follow none.
    """
    if "chosen" in fields and "rejected" in fields:
        return "preference"
    if isinstance(fields.get("messages"), list):
        return "openai"
    if isinstance(fields.get("conversations"), list):
        return "sharegpt"
    if "instruction" in fields and any(name in fields for name in ALPACA_OUTPUTS):
        return "alpaca"
    if any(question in fields and answer in fields for question, answer in PAIRS):
        return "completion"
    if "text" in fields:
        return "text"
    seen = ", ".join(sorted(map(str, fields))[:8]) or "none"
    raise BadRecord("", f"fields of no known format: {seen}")


def parse_record(value: object, source: Source, *, weight: float = 1.0) -> Record:
    """Return the record that a decoded value holds.

    Raises:
        BadRecord: it follows no known format, or breaks the one it follows.
    """
    if not isinstance(value, Mapping):
        raise BadRecord("", f"expected an object with fields, found {kind_of(value)}")
    shape = shape_of(value)
    record = SHAPES[shape](value, source)
    if record.text is None and not record.answers:
        raise BadRecord("", "no assistant turn: nothing to learn from")
    return replace(record, format=shape, weight=weight)


def alpaca(fields: Fields, source: Source) -> Record:
    """Read `instruction`, `input`, `output`, `system`, `history` (or Dolly's names for them)."""
    out_name = next(name for name in ALPACA_OUTPUTS if name in fields)
    in_name = next((name for name in ALPACA_INPUTS if name in fields), "input")
    messages = system_turn(fields)
    history = fields.get("history") or []
    if not isinstance(history, list):
        raise BadRecord("history", f"expected a list, found {kind_of(history)}")
    for place, pair in enumerate(history):
        where = f"history[{place}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRecord(where, "expected a question and an answer")
        messages.append(Message(role="user", content=text_of(pair[0], f"{where}[0]")))
        messages.append(Message(role="assistant", content=text_of(pair[1], f"{where}[1]")))
    instruction = text_of(fields["instruction"], "instruction")
    given = text_of(fields.get(in_name), in_name, missing="")
    question = f"{instruction}\n{given}" if given and instruction else instruction or given
    messages.append(Message(role="user", content=question))
    messages.append(Message(role="assistant", content=text_of(fields[out_name], out_name)))
    used = {"instruction", in_name, out_name, "system", "history"}
    return Record(
        messages=tuple(messages),
        source=source,
        given=given if instruction else "",
        extra=rest(fields, used),
    )


def openai(fields: Fields, source: Source) -> Record:
    """Read `messages` with `role`, `content` and `tool_calls`, and `tools`."""
    messages = tuple(
        openai_message(turn, f"messages[{place}]") for place, turn in enumerate(fields["messages"])
    )
    extra = rest(fields, {"messages", "tools"})
    return Record(messages=messages, source=source, tools=tools_of(fields), extra=extra)


def sharegpt(fields: Fields, source: Source) -> Record:
    """Read `conversations` with `from` and `value`, `system`, `tools`."""
    turns = [
        sharegpt_message(turn, f"conversations[{place}]")
        for place, turn in enumerate(fields["conversations"])
    ]
    label = fields.get("kto_tag")
    return Record(
        messages=(*system_turn(fields), *turns),
        source=source,
        tools=tools_of(fields),
        label=label if isinstance(label, bool) else None,
        extra=rest(fields, {"conversations", "system", "tools", "kto_tag"}),
    )


def completion(fields: Fields, source: Source) -> Record:
    """Read `prompt` and `completion`, each text or a list of messages; `label` for KTO."""
    question, answer = next(pair for pair in PAIRS if pair[0] in fields and pair[1] in fields)
    messages = (
        *system_turn(fields),
        *turns_of(fields[question], question, role="user"),
        *turns_of(fields[answer], answer, role="assistant"),
    )
    label = fields.get("label")
    used = {question, answer, "system", "tools"}
    if isinstance(label, bool):
        used.add("label")
    return Record(
        messages=messages,
        source=source,
        tools=tools_of(fields),
        label=label if isinstance(label, bool) else None,
        extra=rest(fields, used),
    )


def preference(fields: Fields, source: Source) -> Record:
    """Read a better and a worse answer; the prompt stands apart or begins both.

    Takes TRL's form and both of LLaMA-Factory's.
    """
    chosen = turns_of(fields["chosen"], "chosen", role="assistant")
    rejected = turns_of(fields["rejected"], "rejected", role="assistant")
    prompt = system_turn(fields)
    if isinstance(fields.get("conversations"), list):
        prompt += sharegpt(fields, source).messages[len(prompt) :]
    elif "prompt" in fields:
        prompt += turns_of(fields["prompt"], "prompt", role="user")
    elif "instruction" in fields:
        prompt += alpaca({**fields, "output": ""}, source).messages[len(prompt) : -1]
    else:
        shared = common_start(chosen, rejected)
        prompt, chosen, rejected = [*prompt, *chosen[:shared]], chosen[shared:], rejected[shared:]
    if not prompt:
        raise BadRecord("prompt", "no question before the two answers")
    if not rejected or not chosen:
        raise BadRecord("rejected", "the two answers are the same")
    used = {"chosen", "rejected", "prompt", "conversations", "instruction", "input", "system"}
    return Record(
        messages=(*prompt, *chosen),
        rejected=tuple(rejected),
        source=source,
        tools=tools_of(fields),
        extra=rest(fields, used | {"history", "tools"}),
    )


def plain_text(fields: Fields, source: Source) -> Record:
    """Read `text`: words to continue, without a template."""
    return Record(source=source, text=text_of(fields["text"], "text"), extra=rest(fields, {"text"}))


SHAPES: Mapping[str, Callable[[Fields, Source], Record]] = {
    "alpaca": alpaca,
    "openai": openai,
    "sharegpt": sharegpt,
    "completion": completion,
    "preference": preference,
    "text": plain_text,
}


def system_turn(fields: Fields) -> list[Message]:
    """Return the turn of a `system` field, if it says anything."""
    said = text_of(fields.get("system"), "system", missing="")
    return [Message(role="system", content=said)] if said else []


def turns_of(value: object, where: str, *, role: str) -> list[Message]:
    """Return the turns of a field that is a text, a message or a list of messages."""
    if isinstance(value, str):
        return [Message(role=role, content=value)]
    if isinstance(value, Mapping):
        return [message_of(value, where)]
    if isinstance(value, list) and value:
        return [message_of(turn, f"{where}[{place}]") for place, turn in enumerate(value)]
    raise BadRecord(where, f"expected text or messages, found {kind_of(value)}")


def message_of(value: object, where: str) -> Message:
    """Return a message in OpenAI's or ShareGPT's form."""
    if isinstance(value, Mapping) and "from" in value:
        return sharegpt_message(value, where)
    return openai_message(value, where)


def openai_message(value: object, where: str) -> Message:
    """Return a message with `role` and `content`."""
    if not isinstance(value, Mapping):
        raise BadRecord(where, f"expected a message, found {kind_of(value)}")
    role = role_of(value.get("role"), OPENAI_ROLES, f"{where}.role")
    calls = tool_calls_of(value.get("tool_calls"), f"{where}.tool_calls")
    missing = "" if calls else None
    name, call_id = value.get("name"), value.get("tool_call_id")
    train = value.get("train", value.get("weight"))  # axolotl's and OpenAI's names
    return Message(
        role=role,
        content=text_of(value.get("content"), f"{where}.content", missing=missing),
        tool_calls=calls,
        name=name if isinstance(name, str) else None,
        tool_call_id=call_id if isinstance(call_id, str) else None,
        train=bool(train) if isinstance(train, bool | int) else None,
    )


def sharegpt_message(value: object, where: str) -> Message:
    """Return a message with `from` and `value`; some files use `role` and `content` here."""
    if not isinstance(value, Mapping):
        raise BadRecord(where, f"expected a message, found {kind_of(value)}")
    if "from" not in value and "role" in value:
        return openai_message(value, where)
    role = role_of(value.get("from"), SHAREGPT_ROLES, f"{where}.from")
    said = text_of(value.get("value"), f"{where}.value")
    if value.get("from") != "function_call":
        return Message(role=role, content=said)
    calls = decoded(said, f"{where}.value")
    calls = calls if isinstance(calls, list) else [calls]
    wrapped = [{"type": "function", "function": call} for call in calls]
    return Message(role=role, content="", tool_calls=tool_calls_of(wrapped, f"{where}.value"))


def role_of(value: object, known: Mapping[str, str], where: str) -> str:
    """Return our name of a role."""
    if not isinstance(value, str) or value.lower() not in known:
        raise BadRecord(where, f"{shown(value)} is not one of {', '.join(known)}")
    return known[value.lower()]


def tool_calls_of(value: object, where: str) -> tuple[Mapping[str, Any], ...]:
    """Return tool calls with their arguments decoded."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRecord(where, f"expected a list, found {kind_of(value)}")
    calls = []
    for place, call in enumerate(value):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRecord(f"{where}[{place}]", "expected a function with a name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = decoded(arguments, f"{where}[{place}].function.arguments")
        calls.append({**call, "function": {**function, "arguments": arguments or {}}})
    return tuple(calls)


def tools_of(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    """Return the tools on offer; LLaMA-Factory writes them as JSON in a text."""
    value = fields.get("tools")
    if isinstance(value, str):
        value = decoded(value, "tools") if value.strip() else None
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadRecord("tools", f"expected a list of objects, found {kind_of(value)}")
    return tuple(value)


def decoded(text: str, where: str) -> Any:
    """Return the value of JSON inside a text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(where, f"not JSON: {error}") from None


def text_of(value: object, where: str, *, missing: str | None = None) -> str:
    """Return a field's text; OpenAI's lists of text parts are joined.

    Args:
        value: what the file holds.
        where: the field.
        missing: the text for a field that is absent or null; None refuses it.
    """
    if isinstance(value, str):
        if (half := HALF.search(value)) is not None:
            reason = f"half of a surrogate pair (U+{ord(half[0]):04X}): the text was cut wrongly"
            raise BadRecord(where, reason)
        return value
    if value is None and missing is not None:
        return missing
    if isinstance(value, list) and value:
        return "".join(part_of(part, f"{where}[{place}]") for place, part in enumerate(value))
    raise BadRecord(where, f"expected text, found {kind_of(value)}")


def part_of(part: object, where: str) -> str:
    """Return the text of one part of a message."""
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else kind_of(part)
    raise BadRecord(where, f"{shown(kind)} is not text")


def common_start(first: list[Message], second: list[Message]) -> int:
    """Return how many turns two conversations share from the start."""
    for place, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return place
    return min(len(first), len(second))


def rest(fields: Fields, used: Iterable[str]) -> dict[str, Any]:
    """Return the fields that are no part of the format."""
    names = set(used)
    return {str(name): value for name, value in fields.items() if name not in names}


def kind_of(value: object) -> str:
    """Return what a person calls a value's kind."""
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    if type(value) in names:
        return names[type(value)]
    return "a list" if isinstance(value, list) else "an object"


def shown(value: object) -> str:
    """Return a value as it looks in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
