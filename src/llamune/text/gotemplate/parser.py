"""From the words of a Go template to its tree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llamune.text.errors import TemplateError
from llamune.text.gotemplate.lexer import Action as Words
from llamune.text.gotemplate.lexer import Plain, Word, lex
from llamune.text.gotemplate.nodes import (
    Action,
    Break,
    Call,
    Chain,
    Continue,
    Dot,
    Field,
    Function,
    If,
    Include,
    Literal,
    Node,
    Pipe,
    Range,
    Text,
    Variable,
    With,
)

__all__ = ["Program", "parse"]

MAX_DEPTH = 100  # of blocks and of parentheses
BLOCKS: Mapping[str, type[If | With | Range]] = {"if": If, "with": With, "range": Range}
CONSTANTS = {"true": True, "false": False, "nil": None}


@dataclass(frozen=True)
class Program:
    """A parsed template.

    Attributes:
        nodes: the template itself.
        defined: what `{{ define }}` and `{{ block }}` name.
    """

    nodes: tuple[Node, ...]
    defined: Mapping[str, tuple[Node, ...]] = field(default_factory=dict)


def parse(source: str) -> Program:
    """Return the tree of a template.

    Raises:
        TemplateError: it is not valid, with the line.
    """
    reader = Reader(list(lex(source)))
    nodes, end = reader.nodes(())
    if end is not None:
        raise TemplateError(f"line {end.line}: unexpected {{{{ {end.words[0].text} }}}}")
    return Program(nodes, reader.defined)


class Reader:
    """Reads blocks; `Line` reads the words of one action."""

    def __init__(self, parts: Sequence[Plain | Words]) -> None:
        self.parts = parts
        self.position = 0
        self.depth = 0
        self.n_loops = 0
        self.defined: dict[str, tuple[Node, ...]] = {}

    def nodes(self, ends: tuple[str, ...]) -> tuple[tuple[Node, ...], Words | None]:
        """Return the nodes up to an action that starts with one of `ends`, and that action."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TemplateError(f"blocks stand in each other more than {MAX_DEPTH} deep")
        found: list[Node] = []
        while self.position < len(self.parts):
            part = self.parts[self.position]
            self.position += 1
            if isinstance(part, Plain):
                found.append(Text(part.text))
                continue
            first = part.words[0].text if part.words else ""
            if first in {"end", "else"}:
                self.depth -= 1
                return tuple(found), part
            if (node := self.action(part, first)) is not None:
                found.append(node)
        self.depth -= 1
        if ends:
            raise TemplateError("the template ends inside a block: an {{ end }} is missing")
        return tuple(found), None

    def action(self, part: Words, first: str) -> Node | None:
        """Return the node of one action; None for a definition."""
        if not part.words:
            raise TemplateError(f"line {part.line}: an action is empty")
        line = Line(part.words[1:] if first in KEYWORDS else part.words, part.line)
        if first in BLOCKS:
            return self.block(first, line)
        if first in {"define", "block"}:
            return self.definition(first, line)
        if first in {"break", "continue"}:
            line.finish()
            if not self.n_loops:
                raise TemplateError(f"line {part.line}: {first} outside of a range")
            return Break() if first == "break" else Continue()
        if first == "template":
            name = line.string()
            return Include(name, None if line.done else line.pipe(), part.line)
        return Action(line.pipe())

    def block(self, kind: str, line: Line) -> Node:
        """Return an `if`, `with` or `range` with its body, `else if` read as one inside."""
        pipe = line.pipe(loop=kind == "range")
        self.n_loops += kind == "range"
        body, end = self.nodes(("end", "else"))
        self.n_loops -= kind == "range"
        other: tuple[Node, ...] | None = None
        if end is not None and end.words[0].text == "else":
            if len(end.words) == 1:
                other, end = self.nodes(("end",))
                if end is not None and end.words[0].text == "else":
                    raise TemplateError(f"line {end.line}: an else after the else")
            elif (again := end.words[1].text) == kind and kind != "range":
                other = (self.block(again, Line(end.words[2:], end.line)),)
            else:
                raise TemplateError(f"line {end.line}: unexpected words after else")
        return BLOCKS[kind](pipe, body, other)

    def definition(self, kind: str, line: Line) -> Node | None:
        """Keep a named template; a `block` is used where it stands as well."""
        name = line.string()
        pipe = line.pipe() if kind == "block" else None
        body, end = self.nodes(("end",))
        if end is not None and end.words[0].text == "else":
            raise TemplateError(f"line {end.line}: an else without an if")
        self.defined[name] = body
        return None if pipe is None else Include(name, pipe, line.number)


KEYWORDS = {*BLOCKS, "define", "block", "break", "continue", "template"}


class Line:
    """Reads the words of one action."""

    def __init__(self, words: Sequence[Word], number: int) -> None:
        self.words = words
        self.number = number
        self.position = 0
        self.depth = 0

    @property
    def done(self) -> bool:
        """Whether no word is left."""
        return self.position >= len(self.words)

    def peek(self, ahead: int = 0) -> str:
        """Return a word to come without taking it; empty at the end."""
        at = self.position + ahead
        return self.words[at].text if at < len(self.words) else ""

    def unexpected(self) -> TemplateError:
        """Return the error about the next word."""
        found = repr(self.peek()) if not self.done else "the end of the action"
        return TemplateError(f"line {self.number}: unexpected {found}")

    def finish(self) -> None:
        """Raise if words are left."""
        if not self.done:
            raise self.unexpected()

    def string(self) -> str:
        """Take a string constant."""
        if self.done or self.words[self.position].kind not in {"string", "raw"}:
            raise self.unexpected()
        self.position += 1
        return str(constant(self.words[self.position - 1], self.number))

    def pipe(self, *, loop: bool = False, closed: bool = False) -> Pipe:
        """Take a pipeline.

        Args:
            loop: whether two variables may stand before `:=`.
            closed: whether it ends with a parenthesis rather than with the action.
        """
        variables, declares = ((), True) if closed else self.variables(loop=loop)
        calls = [self.call()]
        while self.peek() == "|":
            self.position += 1
            calls.append(self.call())
        if closed:
            if self.peek() != ")":
                raise self.unexpected()
            self.position += 1
        else:
            self.finish()
        return Pipe(tuple(calls), variables, declares, self.number)

    def variables(self, *, loop: bool) -> tuple[tuple[str, ...], bool]:
        """Take `$x :=`, `$x =` or, before a loop, `$i, $x :=`."""
        if not self.peek().startswith("$"):
            return (), True
        count = 2 if loop and self.peek(1) == "," and self.peek(2).startswith("$") else 1
        sign = self.peek(3 if count == 2 else 1)
        if sign not in {":=", "="}:
            return (), True
        names = (self.peek(),) if count == 1 else (self.peek(), self.peek(2))
        self.position += 2 if count == 1 else 4
        return names, sign == ":="

    def call(self) -> Call:
        """Take one command: operands up to a `|`, a parenthesis or the end."""
        operands: list[object] = []
        while not self.done and self.peek() not in {"|", ")"}:
            if operands and not self.words[self.position].spaced:
                raise self.unexpected()
            operands.append(self.operand())
        if not operands:
            raise self.unexpected()
        return Call(tuple(operands))

    def operand(self) -> object:  # noqa: PLR0911  one for each kind of operand
        """Take one operand with the fields that are joined to it."""
        word = self.words[self.position]
        self.position += 1
        if word.text == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise TemplateError(f"line {self.number}: too many parentheses")
            inner = self.pipe(closed=True)
            self.depth -= 1
            names = self.fields()
            return Chain(inner, names) if names else inner
        if word.kind == "field":
            return Field((word.text[1:], *self.fields()))
        if word.kind == "variable":
            return Variable(word.text, self.fields())
        if word.text == ".":
            return Dot()
        if word.text in CONSTANTS:
            return Literal(CONSTANTS[word.text])
        if word.kind == "name":
            return Function(word.text)
        if word.kind in {"string", "raw", "char", "number"}:
            return Literal(constant(word, self.number))
        self.position -= 1
        raise self.unexpected()

    def fields(self) -> tuple[str, ...]:
        """Take the fields that follow without white space."""
        names = []
        while (
            not self.done
            and self.words[self.position].kind == "field"
            and not self.words[self.position].spaced
        ):
            names.append(self.peek()[1:])
            self.position += 1
        return tuple(names)


def constant(word: Word, line: int) -> object:
    """Return the value of a constant."""
    if word.kind == "raw":
        return word.text[1:-1].replace("\r", "")
    if word.kind == "number":
        text = word.text.replace("_", "")
        try:
            return (
                int(text, 0) if not set(text.lower()) & set(".ep") or "x" in text else float(text)
            )
        except ValueError:
            raise TemplateError(f"line {line}: {word.text!r} is not a number") from None
    body = word.text[1:-1]
    if word.kind == "char":
        body = body.replace('"', '\\"')
    text = unescape(body, line)
    return ord(text) if word.kind == "char" and len(text) == 1 else text


ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
ESCAPES |= {"\\": "\\", '"': '"', "'": "'"}
CODE_LENGTHS = {"x": 2, "u": 4, "U": 8}


def unescape(body: str, line: int) -> str:
    """Return a string constant without its escapes."""
    parts: list[bytes] = []
    position = 0
    while position < len(body):
        character = body[position]
        if character != "\\":
            parts.append(character.encode())
            position += 1
            continue
        kind = body[position + 1 : position + 2]
        position += 2
        if kind in ESCAPES:
            parts.append(ESCAPES[kind].encode())
            continue
        length = CODE_LENGTHS.get(kind, 3 if kind.isdigit() else 0)
        start = position - 1 if kind.isdigit() else position
        digits = body[start : start + length]
        try:
            code = int(digits, 8 if kind.isdigit() else 16)
            parts.append(chr(code).encode() if kind in "uU" else bytes([code]))
        except ValueError:
            raise TemplateError(f"line {line}: bad escape in {json.dumps(body)}") from None
        position = start + length
    return b"".join(parts).decode(errors="replace")
