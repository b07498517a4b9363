"""The tree of a parsed Go template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

__all__ = [
    "Action",
    "Break",
    "Call",
    "Chain",
    "Continue",
    "Dot",
    "Field",
    "Function",
    "If",
    "Include",
    "Literal",
    "Node",
    "Operand",
    "Pipe",
    "Range",
    "Text",
    "Variable",
    "With",
    "names_in",
    "without_rest",
]


@dataclass(frozen=True)
class Literal:
    """A constant, `nil` included."""

    value: Any


@dataclass(frozen=True)
class Dot:
    """The present value, `.`."""


@dataclass(frozen=True)
class Field:
    """A field of the present value: `.Function.Name`."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    """A variable and fields of it: `$`, `$message.Content`."""

    name: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """A field of what stands in parentheses: `(index .Messages 0).Role`."""

    base: Pipe
    names: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """The name of a function."""

    name: str


Operand = "Literal | Dot | Field | Variable | Chain | Function | Pipe"


@dataclass(frozen=True)
class Call:
    """One command of a pipeline: an operand, or a function and what it is given."""

    words: tuple[Any, ...]


@dataclass(frozen=True)
class Pipe:
    """A pipeline, and the variables that take its value.

    Attributes:
        calls: the commands; each gets the value of the one before it as its last argument.
        variables: names with their `$`.
        declares: whether the variables are new (`:=`) or exist already (`=`).
        line: where it stands.
    """

    calls: tuple[Call, ...]
    variables: tuple[str, ...] = ()
    declares: bool = True
    line: int = 0


@dataclass(frozen=True)
class Text:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Action:
    """A pipeline whose value is written, unless it goes into a variable."""

    pipe: Pipe


@dataclass(frozen=True)
class If:
    """`{{ if }}`, its body and its `{{ else }}`."""

    pipe: Pipe
    body: tuple[Node, ...]
    other: tuple[Node, ...] | None = None


@dataclass(frozen=True)
class With:
    """`{{ with }}`, which makes its value the present one."""

    pipe: Pipe
    body: tuple[Node, ...]
    other: tuple[Node, ...] | None = None


@dataclass(frozen=True)
class Range:
    """`{{ range }}`, a loop."""

    pipe: Pipe
    body: tuple[Node, ...]
    other: tuple[Node, ...] | None = None


@dataclass(frozen=True)
class Break:
    """`{{ break }}`."""


@dataclass(frozen=True)
class Continue:
    """`{{ continue }}`."""


@dataclass(frozen=True)
class Include:
    """`{{ template "name" value }}`."""

    name: str
    pipe: Pipe | None
    line: int


Node = Text | Action | If | With | Range | Break | Continue | Include


def names_in(nodes: tuple[Node, ...]) -> set[str]:
    """Return every field and variable name in some nodes, in lower case, as Ollama collects them.

    Names after a parenthesis are not among them, as they are not in Ollama.
    """
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, Action | If | With | Range) or (
            isinstance(node, Include) and node.pipe is not None
        ):
            found.update(name.lower() for name in pipe_names(node.pipe))
        if isinstance(node, If | With | Range):
            found |= names_in(node.body) | names_in(node.other or ())
    return found


def pipe_names(pipe: Pipe | None) -> Iterator[str]:
    """Yield the field and variable names of a pipeline."""
    for call in pipe.calls if pipe else ():
        for word in call.words:
            if isinstance(word, Field):
                yield from word.names
            elif isinstance(word, Variable):
                yield from (word.name, *word.names)
            elif isinstance(word, Pipe):
                yield from pipe_names(word)


def without_rest(nodes: tuple[Node, ...], name: str) -> tuple[Node, ...]:
    """Return nodes up to the first action that uses a field, what follows it cut off everywhere.

    So a template that writes `.Response` ends where an answer begins.
    """
    return cut(nodes, name)[0]


def cut(nodes: tuple[Node, ...], name: str) -> tuple[tuple[Node, ...], bool]:
    """Return the nodes that are kept, and whether the field was found among them."""
    kept: list[Node] = []
    for node in nodes:
        done = False
        kept_node = node
        if isinstance(node, Action):
            done = any(
                isinstance(word, Field) and name in word.names
                for call in node.pipe.calls
                for word in call.words
            )
        elif isinstance(node, If | With | Range):
            body, done = cut(node.body, name)
            other = node.other
            if other is not None and not done:
                other, done = cut(other, name)
            elif other is not None:
                other = None
            kept_node = replace(node, body=body, other=other)
        kept.append(kept_node)
        if done:
            return tuple(kept), True
    return tuple(kept), False
