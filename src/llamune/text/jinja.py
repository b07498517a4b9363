"""Jinja chat templates, given what llama.cpp gives them."""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import jinja2

from llamune.errors import UnsupportedError
from llamune.text.errors import TemplateError
from llamune.text.sandbox import MAX_SOURCE, Sandbox, limits, to_json
from llamune.text.templates import ChatTemplate

__all__ = ["JinjaTemplate"]

# marks by which llama.cpp knows templates that need their messages changed
TRIMMED = "You have access to the following functions in JSONSchema format"
OLD_GEMMA4, NEW_GEMMA4 = "'<|tool_call>call:'", "{#- OpenAI Chat Completions:"
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
        """Return the text of messages, adapted to the template as llama.cpp adapts them.

        Source: llama.cpp, `common_chat_templates_apply_jinja` (common/chat.cpp).
        """
        self.refuse_rewritten(messages)
        if messages and messages[0].get("role") == "system" and not self.knows_system:
            messages = system_merged(messages)
        if TRIMMED in self.text:
            messages = [trimmed(message) for message in messages]
        values = {"add_generation_prompt": add_generation_prompt, **variables}
        if tools:
            values["tools"] = copy.deepcopy(list(tools))
        template = self.with_tools if tools else self.compiled
        objects = [adapted(message, json.loads) for message in messages]
        try:
            return self.run(template, {**values, "messages": objects})
        except TemplateError:
            texts = [adapted(message, str) for message in messages]
            if texts == objects:
                raise
        # a few templates join the arguments of a call to other text, so they must be text
        return self.run(template, {**values, "messages": texts})

    def refuse_rewritten(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raise where llama.cpp rewrites messages in a way that is not reproduced here."""
        outdated = OLD_GEMMA4 in self.text and NEW_GEMMA4 not in self.text
        if outdated and any(message.get("role") == "tool" for message in messages):
            raise UnsupportedError(
                f"{self.where}: llama.cpp rewrites the tool messages for this outdated Gemma 4 "
                "template, and llamune does not",
                hint="use a model file with the present template",
            )

    @cached_property
    def knows_system(self) -> bool:
        """Whether a system message appears in what the template makes."""
        mark = "llamune system mark"
        messages = [{"role": "system", "content": mark}, {"role": "user", "content": "x"}]
        try:
            return mark in self.run(self.compiled, {"messages": messages})
        except TemplateError:
            return False

    @cached_property
    def thinks(self) -> bool:
        """Whether the template knows thoughts; llama.cpp then lets the model think."""
        return "think" in self.text.replace("enable_thinking", "")

    def run(self, template: jinja2.Template, values: Mapping[str, Any]) -> str:
        """Run the template in the sandbox.

        Raises:
            TemplateError: it refuses the messages, is broken, or reached a limit.
        """
        now = datetime.datetime.now()
        given = {
            "bos_token": self.bos,
            "eos_token": self.eos,
            "enable_thinking": self.thinks,
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


def adapted(message: dict[str, Any], arguments: Callable[[str], Any]) -> dict[str, Any]:
    """Return a copy of a message as templates expect it: no `developer`, content never missing.

    Args:
        message: a message in OpenAI's form.
        arguments: what makes a call's arguments of their JSON text.
    """
    message = copy.deepcopy(message)
    if message.get("role") == "developer":
        message["role"] = "system"
    if message.get("tool_calls"):
        message["content"] = message.get("content") or ""
    for call in message.get("tool_calls") or ():
        function = call.get("function")
        if isinstance(function, dict) and "arguments" in function:
            found = function["arguments"]
            text = found if isinstance(found, str) else to_json(found)
            try:
                function["arguments"] = arguments(text)
            except ValueError as error:
                raise TemplateError(f"a tool call's arguments are not JSON: {error}") from error
    return message


def trimmed(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without white space around its texts."""
    texts = {
        key: message[key].strip()
        for key in ("content", "reasoning_content")
        if isinstance(message.get(key), str)
    }
    return {**message, **texts}


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
