"""Calls of functions where llama.cpp does not find them itself.

It parses what its own template engine made room for. Two kinds of answers it leaves to us: those
to a prompt of a store's Go template, and those that must be a call (`tool_choice`), which its
grammar does not enforce for every template.
"""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llamune.engine.errors import EngineError
from llamune.engine.options import Piece, Tools

__all__ = ["CallReader", "ForcedCall", "TaggedCalls", "forced_schema", "refuse_unusable_choice"]

FREE_CHOICES = (None, "auto", "none")
CALLED = "tool_calls"  # the reason why an answer with calls ends


class CallReader(ABC):
    """Turns an answer's text into calls, a piece at a time."""

    @abstractmethod
    def read(self, piece: Piece) -> Piece | None:
        """Return what to hand on in place of a piece; None where its text may be part of a call."""


class ForcedCall(CallReader):
    """An answer that is one call, `{"name": …, "arguments": {…}}`, by its schema."""

    def __init__(self) -> None:
        self._text = ""

    def read(self, piece: Piece) -> Piece | None:
        """Return the call when the answer ends; the text itself where it was cut."""
        self._text += piece.text
        if piece.finish_reason is None:
            return None
        try:
            found = json.loads(self._text)
        except json.JSONDecodeError:
            return replace(piece, text=self._text)
        call = openai_call(0, found["name"], found["arguments"])
        return replace(piece, text="", tool_calls=(call,), finish_reason=CALLED)


class TaggedCalls(CallReader):
    """An answer in which calls follow a tag, as Ollama reads those of Go templates.

    Source: Ollama, `Parser` (tools/tools.go): after the tag, a call is the first function's name
    that occurs, and the first JSON object that holds one of the functions' parameters.

    Args:
        tools: the functions that may be called, in OpenAI's form.
        tag: the text before a call.
    """

    def __init__(self, tools: Tools, tag: str) -> None:
        functions = [tool["function"] for tool in tools]
        self._names = [function["name"] for function in functions]
        self._parameters = {
            name
            for function in functions
            for name in (function.get("parameters") or {}).get("properties") or {}
        }
        self._tag = tag
        self._held = ""  # text that may be part of a tag or a call
        self._has_tag = False
        self._n_calls = 0

    def read(self, piece: Piece) -> Piece | None:
        """Return text that is no call as it comes, and each call as soon as it is whole."""
        self._held += piece.text
        text = "" if self._has_tag else self._before_tag()
        calls = tuple(self._whole_calls()) if self._has_tag else ()
        if piece.finish_reason is not None:
            rest = "" if self._n_calls else self._held
            reason = CALLED if self._n_calls else piece.finish_reason
            return replace(piece, text=text + rest, tool_calls=calls, finish_reason=reason)
        if not (text or calls or piece.thinking):
            return None
        return replace(piece, text=text, tool_calls=calls)

    def _before_tag(self) -> str:
        """Take the text that certainly stands before a tag out of what is held."""
        place = self._held.find(self._tag)
        self._has_tag = place >= 0
        if not self._has_tag:
            place = len(self._held) - overlap(self._held, self._tag)
        text, self._held = self._held[:place], self._held[place:]
        return text

    def _whole_calls(self) -> Iterator[Mapping[str, Any]]:
        """Take the calls that are whole out of what is held."""
        while (found := self._next_call()) is not None:
            name, arguments, end = found
            self._held = self._held[end:]
            yield openai_call(self._n_calls, name, arguments)
            self._n_calls += 1

    def _next_call(self) -> tuple[str, Mapping[str, Any], int] | None:
        """Return the next whole call and where it ends."""
        places = [(place, name) for name in self._names if (place := self._held.find(name)) >= 0]
        start = self._held.find("{")
        if not places or start < 0:
            return None
        place, name = min(places, key=lambda found: (found[0], -len(found[1])))
        try:
            value, end = json.JSONDecoder().raw_decode(self._held, start)
        except json.JSONDecodeError:
            return None
        arguments = self._arguments_in(value)
        return None if arguments is None else (name, arguments, max(end, place + len(name)))

    def _arguments_in(self, value: Any) -> Mapping[str, Any] | None:
        """Return the first object in a JSON value that holds a function's parameter."""
        if isinstance(value, dict) and (self._parameters & value.keys() or not self._parameters):
            return value
        inner = value.values() if isinstance(value, dict) else value
        if not isinstance(value, dict | list):
            return None
        return next((x for x in map(self._arguments_in, inner) if x is not None), None)


def openai_call(index: int, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole call in the form of a streamed answer."""
    written = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    id_ = f"call_{secrets.token_hex(12)}"
    return {"index": index, "id": id_, "type": "function", "function": written}


def overlap(text: str, tag: str) -> int:
    """Return the length of the longest end of a text that a tag begins with."""
    lengths = range(min(len(text), len(tag)), 0, -1)
    return next((length for length in lengths if text.endswith(tag[:length])), 0)


def refuse_unusable_choice(tools: Tools, choice: str | None) -> None:
    """Refuse a choice among tools that are not there.

    Raises:
        EngineError: a call is asked for and there are no tools, or none of that name.
    """
    if choice in FREE_CHOICES:
        return
    names = [tool["function"]["name"] for tool in tools]
    if not names or choice not in ("required", *names):
        raise EngineError(f"tool_choice asks for {choice!r}; the tools are {names}")


def forced_schema(tools: Tools, choice: str | None) -> dict[str, Any] | None:
    """Return the schema of an answer that must be a call; None where it may be text.

    Args:
        tools: the functions that may be called, in OpenAI's form.
        choice: `none`, `auto`, `required`, or the name of the one function to call.

    Raises:
        EngineError: two functions define the same name (`$defs`) differently.
    """
    if choice in FREE_CHOICES:
        return None
    functions = [tool["function"] for tool in tools]
    if choice != "required":
        functions = [function for function in functions if function["name"] == choice]
    definitions: dict[str, Any] = {}
    calls = []
    for function in functions:
        parameters = dict(function.get("parameters") or {"type": "object"})
        for name, definition in parameters.pop("$defs", {}).items():
            if definitions.setdefault(name, definition) != definition:
                raise EngineError(f"the tools define {name!r} in two ways")
        calls.append(call_schema(function["name"], parameters))
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return schema | ({"$defs": definitions} if definitions else {})


def call_schema(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a call of one function."""
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": dict(parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
