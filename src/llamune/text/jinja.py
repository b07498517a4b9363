"""Jinja chat templates, given what llama.cpp gives them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import jinja2

from llamune.text.errors import TemplateError
from llamune.text.sandbox import MAX_SOURCE, Sandbox, limits
from llamune.text.templates import ChatTemplate

__all__ = ["JinjaTemplate"]

# what a template may raise besides Jinja's own errors: it is a program that somebody else wrote
PROGRAM_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)


class JinjaTemplate(ChatTemplate):
    """A Jinja chat template.

    Args:
        text: the template.
        tools_text: the template for conversations with tools, where the file has one of its own.
        bos: text of the BOS token, for the template's `bos_token`.
        eos: text of the EOS token, for the template's `eos_token`.
        **layers: what `ChatTemplate` takes.
    """

    source = "gguf"
    language = "Jinja"

    def __init__(
        self,
        text: str,
        *,
        tools_text: str | None = None,
        bos: str = "",
        eos: str = "",
        **layers: Any,
    ) -> None:
        super().__init__(text, **layers)
        self.bos = bos
        self.eos = eos
        self.compiled = compiled(text, self.where)
        self.with_tools = self.compiled if tools_text is None else compiled(tools_text, self.where)

    def render_prepared(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """Return the text of messages, adapted to the template as llama.cpp adapts them."""
        messages = [adapted(message) for message in messages]
        if messages and messages[0].get("role") == "system" and not self.knows_system:
            messages = system_merged(messages)
        values = {
            "messages": messages,
            "tools": [dict(tool) for tool in tools] if tools else None,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        return self.run(self.with_tools if tools else self.compiled, values)

    @cached_property
    def knows_system(self) -> bool:
        """Whether a system message appears in what the template makes."""
        mark = "llamune system mark"
        messages = [{"role": "system", "content": mark}, {"role": "user", "content": "x"}]
        try:
            return mark in self.run(self.compiled, {"messages": messages})
        except TemplateError:
            return False

    def run(self, template: jinja2.Template, values: Mapping[str, Any]) -> str:
        """Run the template in the sandbox.

        Raises:
            TemplateError: it refuses the messages, is broken, or reached a limit.
        """
        now = datetime.datetime.now()
        given = {
            "bos_token": self.bos,
            "eos_token": self.eos,
            "enable_thinking": True,
            "date_string": now.strftime("%d %b %Y"),
            "datetime": now.strftime("%b %d %Y"),
            **values,
        }
        try:
            with limits():
                return template.render(given)
        except jinja2.TemplateError as error:
            raise self.failed(error.message or type(error).__name__) from error
        except PROGRAM_ERRORS as error:
            raise self.failed(f"{type(error).__name__}: {error}") from error

    def failed(self, reason: str) -> TemplateError:
        """Return the error about a rendering that did not work."""
        return TemplateError(f"{self.where}: the chat template failed: {reason}")


def adapted(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as templates expect it: no `developer`, call arguments as an object."""
    if message.get("role") == "developer":
        message = {**message, "role": "system"}
    if not message.get("tool_calls"):
        return message
    calls = [dict(call) for call in message["tool_calls"]]
    for call in calls:
        function = call.get("function")
        if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
            try:
                arguments = json.loads(function["arguments"])
            except ValueError as error:
                raise TemplateError(f"a tool call's arguments are not JSON: {error}") from error
            call["function"] = {**function, "arguments": arguments}
    return {"content": "", **message, "tool_calls": calls}


def system_merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages for a template without a system role: its text starts the next message."""
    first, *rest = messages
    if not rest:
        return []
    content = f"{first.get('content') or ''}\n{rest[0].get('content') or ''}"
    return [{**rest[0], "content": content}, *rest[1:]]


@cache
def sandbox() -> Sandbox:
    """Return the one environment in which all templates run."""
    return Sandbox()


def compiled(text: str, where: str) -> jinja2.Template:
    """Return a compiled template.

    Raises:
        TemplateError: it is not Jinja, or far too long.
    """
    if len(text) > MAX_SOURCE:
        raise TemplateError(f"{where}: the chat template has {len(text):,} characters")
    try:
        return sandbox().from_string(text)
    except jinja2.TemplateSyntaxError as error:
        problem = f"line {error.lineno}: {error.message}"
        raise TemplateError(f"{where}: the chat template is not valid Jinja: {problem}") from error
    except PROGRAM_ERRORS as error:
        raise TemplateError(
            f"{where}: the chat template cannot be compiled: {type(error).__name__}: {error}"
        ) from error
