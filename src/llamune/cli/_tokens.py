"""Tokens in colours, for the commands that show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llamune.cli import _screen

if TYPE_CHECKING:
    from rich.text import Text

    from llamune.text import Tokenizer

__all__ = ["coloured", "visible"]

# neighbours differ in light and dark terminals alike, and to colour-blind eyes by brightness
STYLES = ("black on bright_cyan", "black on bright_yellow", "black on bright_white")
CONTROL = "bold white on red"
LONE_BYTE = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a stray byte


def coloured(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    style_of: Callable[[int], str | None] | None = None,
) -> Text:
    """Return the text of some tokens, neighbours in different colours, control tokens in red.

    Args:
        tokenizer: the model's tokenizer.
        ids: the tokens.
        style_of: a style for the token at a place, in place of the changing colours.
    """
    from rich.text import Text

    text = Text()
    pending, pending_style = b"", ""
    for place, id_ in enumerate(ids):
        style = style_of(place) if style_of is not None else None
        if style is None:
            style = CONTROL if id_ in tokenizer.control_ids else STYLES[place % len(STYLES)]
        pending, pending_style = pending + tokenizer.token_bytes(id_), pending_style or style
        if place + 1 < len(ids) and ends_inside_character(pending):
            continue  # a character of several tokens is shown once, in the colour of the first
        text.append(visible(pending), style=pending_style)
        if pending.endswith(b"\n"):
            text.append("\n")
        pending, pending_style = b"", ""
    return text


def ends_inside_character(data: bytes) -> bool:
    """Whether more bytes could make the end of `data` a whole character."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def visible(data: bytes) -> str:
    """Return bytes as a person can read them: line ends as ↵, parts of a character as hex."""
    text = data.decode(errors="surrogateescape")
    shown = LONE_BYTE.sub(lambda found: f"⟨{ord(found[0]) - 0xDC00:02x}⟩", text)
    return _screen.plain(shown.replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍"))
