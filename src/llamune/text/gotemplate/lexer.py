"""Go template source cut into plain text and the words of each action."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llamune.text.errors import TemplateError

__all__ = ["Action", "Plain", "Word", "lex"]

BLANKS = " \t\r\n"
WORD = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<raw>`[^`]*`)
    | (?P<char>'(?:[^'\\\n]|\\.[^']*)')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+))
    | (?P<field>\.[^\W\d]\w*)
    | (?P<variable>\$\w*)
    | (?P<name>[^\W\d]\w*)
    | (?P<sign>:=|[.|(),=])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Plain:
    """Text that is written as it stands."""

    text: str


@dataclass(frozen=True)
class Word:
    """A word of an action.

    Attributes:
        kind: `string`, `raw`, `char`, `number`, `field`, `variable`, `name` or `sign`.
        text: as it is written, the dot of a field included.
        spaced: whether white space, or the start of the action, comes before it.
    """

    kind: str
    text: str
    spaced: bool


@dataclass(frozen=True)
class Action:
    """What stands between `{{` and `}}`."""

    line: int
    words: tuple[Word, ...]


def lex(source: str) -> Iterator[Plain | Action]:
    """Yield the parts of a template, white space trimmed where `{{-` and `-}}` ask for it.

    Raises:
        TemplateError: an action or comment does not end, or holds a stray character.
    """
    position, trim = 0, False
    while True:
        start = source.find("{{", position)
        text = source[position:] if start < 0 else source[position:start]
        if trim:
            text = text.lstrip(BLANKS)
        if start < 0:
            if text:
                yield Plain(text)
            return
        inside = start + 2
        if source[inside : inside + 1] == "-" and source[inside + 1 : inside + 2] in tuple(BLANKS):
            text = text.rstrip(BLANKS)
            inside += 2
        if text:
            yield Plain(text)
        line = source.count("\n", 0, start) + 1
        body = inside + len(source[inside:]) - len(source[inside:].lstrip(BLANKS))
        if source.startswith("/*", body):
            position, trim = skip_comment(source, body, line)
            continue
        words, position, trim = read_action(source, inside, line)
        yield Action(line, words)


def skip_comment(source: str, start: int, line: int) -> tuple[int, bool]:
    """Return where the text after a comment begins, and whether to trim it."""
    end = source.find("*/", start + 2)
    if end < 0:
        raise TemplateError(f"line {line}: a comment does not end")
    if source.startswith("}}", end + 2):
        return end + 4, False
    if source[end + 2 : end + 3] in tuple(BLANKS) and source.startswith("-}}", end + 3):
        return end + 6, True
    raise TemplateError(f"line {line}: a comment ends before its action does")


def read_action(source: str, start: int, line: int) -> tuple[tuple[Word, ...], int, bool]:
    """Return the words of an action, where the text after it begins, and whether to trim it."""
    words: list[Word] = []
    position, spaced = start, True
    while True:
        if source.startswith("}}", position):
            return tuple(words), position + 2, False
        if spaced and source.startswith("-}}", position) and position > start:
            return tuple(words), position + 3, True
        match = WORD.match(source, position)
        if match is None:
            found = source[position : position + 10] or "the end of the template"
            raise TemplateError(f"line {line}: unexpected {found!r} in an action")
        position = match.end()
        kind = match.lastgroup or ""
        if kind == "space":
            spaced = True
        else:
            words.append(Word(kind, match[0], spaced))
            spaced = False
