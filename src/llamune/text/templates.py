"""The chat template that a served model really uses, and what it makes of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2

from llamune.gguf import ModelFile
from llamune.text.errors import TemplateError
from llamune.text.sandbox import MAX_SOURCE, Sandbox, limits
from llamune.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llamune.store import Model

__all__ = ["ChatTemplate", "prompt_ids", "template_of"]

KEY = "tokenizer.chat_template"
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


class ChatTemplate:
    """A Jinja chat template out of a model file.

    Args:
        text: the template.
        where: the file and key, for messages.
        bos: text of the BOS token, for the template's `bos_token`.
        eos: text of the EOS token, for the template's `eos_token`.
    """

    source = "gguf"

    def __init__(self, text: str, *, where: str, bos: str = "", eos: str = "") -> None:
        self.text = text
        self.where = where
        self.bos = bos
        self.eos = eos
        self.compiled = compiled(text, where)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """Return the text that the messages become.

        Args:
            messages: `role`, `content` and what else the template reads.
            tools: functions that the model may call, in OpenAI's form.
            add_generation_prompt: whether the text ends where the answer begins.
            **variables: what else the template reads, such as `enable_thinking`.

        Raises:
            TemplateError: the template refuses the messages, is broken, or reached a limit.
        """
        values: dict[str, Any] = {
            "messages": [dict(message) for message in messages],
            "tools": [dict(tool) for tool in tools] if tools else None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos,
            "eos_token": self.eos,
            **variables,
        }
        try:
            with limits():
                return self.compiled.render(values)
        except jinja2.TemplateError as error:
            raise self.failed(error.message or type(error).__name__) from error
        except PROGRAM_ERRORS as error:
            raise self.failed(f"{type(error).__name__}: {error}") from error

    def failed(self, reason: str) -> TemplateError:
        """Return the error about a rendering that did not work."""
        return TemplateError(f"{self.where}: the chat template failed: {reason}")


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


def template_of(model: Model, file: ModelFile, tokenizer: Tokenizer) -> ChatTemplate:
    """Return the chat template of a model.

    Args:
        model: where it was found, with the layers of its store.
        file: the opened model file.
        tokenizer: its tokenizer.

    Raises:
        TemplateError: there is none, or it is broken.
    """
    _ = model
    if KEY not in file.metadata:
        raise TemplateError(f"{file.path}: no chat template ({KEY})")
    return ChatTemplate(
        file.metadata.text(KEY),
        where=f"{file.path}: {KEY}",
        bos="" if tokenizer.bos_id is None else tokenizer.piece(tokenizer.bos_id),
        eos="" if tokenizer.eos_id is None else tokenizer.piece(tokenizer.eos_id),
    )


def prompt_ids(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
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
