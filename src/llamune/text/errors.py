"""What can be wrong with a tokenizer or a chat template."""

from __future__ import annotations

from llamune.errors import LlamuneError

__all__ = ["TemplateError", "TextError"]


class TextError(LlamuneError):
    """A vocabulary or a text that cannot be turned into tokens."""


class TemplateError(TextError):
    """A chat template that is broken, does not end, grows too big, or refuses the messages."""
