"""The prompt that Ollama makes with a model's TEMPLATE layer.

Source: Ollama, `Template.Execute` and `collate` (template/template.go), `chatPrompt`
(server/prompt.go), `Message` and `Tool` (api/types.go).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llamune.text.errors import TemplateError
from llamune.text.gotemplate import (
    Program,
    Struct,
    execute,
    go_value,
    names_in,
    parse,
    without_rest,
)
from llamune.text.gotemplate.nodes import Action, Call, Field, Pipe
from llamune.text.gotemplate.values import JsonList, JsonText, TypeNames

__all__ = ["OllamaTemplate"]


class OllamaTemplate:
    """A parsed TEMPLATE layer.

    Args:
        text: the template.

    Raises:
        TemplateError: it is not valid.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        program = parse(text)
        self.names = names_in(program.nodes)
        for body in program.defined.values():
            self.names |= names_in(body)
        if not self.names & {"messages", "response"}:
            answer = Action(Pipe((Call((Field(("Response",)),)),)))
            program = Program((*program.nodes, answer), program.defined)
        self.program = program

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        think: bool | None = None,
    ) -> str:
        """Return the text that Ollama sends for a conversation.

        Args:
            messages: the conversation.
            tools: functions that the model may call, in OpenAI's form.
            think: what the caller says about thinking; None where nothing is said.

        Raises:
            TemplateError: the template fails on them.
        """
        thinking = {"Think": bool(think), "ThinkLevel": "", "IsThinkSet": think is not None}
        system, collated = collate(messages)
        if "messages" in self.names:
            values = {
                "System": system,
                "Messages": [message_value(message) for message in collated],
                "Tools": tools_value(tools or ()),
                "Response": "",
            }
            return execute(self.program, {**values, **thinking})
        return self.in_rounds(collated, thinking)

    def in_rounds(self, messages: Sequence[Mapping[str, Any]], thinking: Mapping[str, Any]) -> str:
        """Run a template that knows no messages once for each round, the last one cut short."""
        written: list[str] = []
        present = {"System": "", "Prompt": "", "Response": ""}

        def next_round() -> None:
            written.append(execute(self.program, {**present, **thinking}))
            present.update(dict.fromkeys(present, ""))

        for message in messages:
            content = str(message.get("content") or "")
            if message["role"] == "system":
                if present["Prompt"] or present["Response"]:
                    next_round()
                present["System"] = content
            elif message["role"] == "user":
                if present["Response"]:
                    next_round()
                present["Prompt"] = content
            elif message["role"] == "assistant":
                present["Response"] = content
        last = Program(without_rest(self.program.nodes, "Response"), self.program.defined)
        written.append(execute(last, {**present, **thinking}))
        return "".join(written)


def collate(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Return all system messages as one text, and the messages with neighbours of a role joined."""
    joined: list[dict[str, Any]] = []
    system: list[str] = []
    for message in messages:
        role = str(message["role"]).lower()
        content = str(message.get("content") or "")
        if role == "system":
            system.append(content)
        if joined and joined[-1]["role"] == role and role != "tool":
            joined[-1]["content"] += f"\n\n{content}"
        else:
            joined.append({**message, "role": role, "content": content})
    return "\n\n".join(system), joined


def message_value(message: Mapping[str, Any]) -> Struct:
    """Return a message as templates see it."""
    calls = [call_value(call, place) for place, call in enumerate(message.get("tool_calls") or ())]
    return Struct(
        "Message",
        {
            "Role": message["role"],
            "Content": message["content"],
            "Thinking": str(message.get("thinking") or message.get("reasoning_content") or ""),
            "Images": [],
            "ToolCalls": calls,
            "ToolName": str(message.get("tool_name") or message.get("name") or ""),
            "ToolCallID": str(message.get("tool_call_id") or ""),
        },
        {},
    )


def call_value(call: Mapping[str, Any], place: int) -> Struct:
    """Return a call of a tool as templates see it; its arguments lose their order, as in Go."""
    function = call.get("function", call)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise TemplateError(f"the arguments of a tool call are not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise TemplateError("the arguments of a tool call are not a JSON object")
    inner = Struct(
        "ToolCallFunction",
        {
            "Index": int(function.get("index", place)),
            "Name": str(function.get("name", "")),
            "Arguments": JsonText(go_value(arguments)),
        },
        {},
    )
    return Struct("ToolCall", {"ID": str(call.get("id") or ""), "Function": inner}, {})


def tools_value(tools: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """Return the tools as templates see them."""
    return JsonList(map(tool_value, tools)) if tools else None


def tool_value(tool: Mapping[str, Any]) -> Struct:
    """Return one tool as templates see it."""
    function = tool.get("function", {})
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    inner = Struct(
        "ToolFunctionParameters",
        {
            "Type": str(parameters.get("type", "")),
            "Defs": go_value(parameters.get("$defs")),
            "Items": go_value(parameters.get("items")),
            "Required": list(parameters.get("required") or ()),
            "Properties": JsonText({name: property_value(one) for name, one in properties.items()}),
        },
        {
            "Type": "type",
            "Defs": "$defs?",
            "Items": "items?",
            "Required": "required?",
            "Properties": "properties",
        },
    )
    described = Struct(
        "ToolFunction",
        {
            "Name": str(function.get("name", "")),
            "Description": str(function.get("description", "")),
            "Parameters": inner,
        },
        {"Name": "name", "Description": "description", "Parameters": "parameters"},
    )
    return Struct(
        "Tool",
        {
            "Type": str(tool.get("type", "function")),
            "Items": go_value(tool.get("items")),
            "Function": described,
        },
        {"Type": "type", "Items": "items?", "Function": "function"},
        prints_as_json=True,
    )


def property_value(found: Mapping[str, Any]) -> Struct:
    """Return a parameter of a tool as templates see it."""
    types = found.get("type")
    names = [types] if isinstance(types, str) else list(types or ())
    properties = found.get("properties")
    return Struct(
        "ToolProperty",
        {
            "AnyOf": [property_value(one) for one in found.get("anyOf") or ()],
            "Type": TypeNames(names),
            "Items": go_value(found.get("items")),
            "Description": str(found.get("description", "")),
            "Enum": go_value(found.get("enum") or []),
            "Properties": None
            if properties is None
            else {name: property_value(one) for name, one in properties.items()},
            "Required": list(found.get("required") or ()),
        },
        {
            "AnyOf": "anyOf?",
            "Type": "type?",
            "Items": "items?",
            "Description": "description?",
            "Enum": "enum?",
            "Properties": "properties?",
            "Required": "required?",
        },
    )
