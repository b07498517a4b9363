"""Runs a parsed Go template on values."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from llamune.text.errors import TemplateError
from llamune.text.gotemplate.functions import call
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
from llamune.text.gotemplate.parser import Program
from llamune.text.gotemplate.values import Struct, go_text, truth

__all__ = ["execute"]

MAX_SECONDS = 3.0
MAX_OUTPUT = 16 << 20  # characters
MAX_DEPTH = 100  # of templates that use each other
NOTHING: Any = object()  # no value was piped in


class Stop(Exception):  # noqa: N818  a way to leave a loop, not an error
    """`break`."""


class Skip(Exception):  # noqa: N818
    """`continue`."""


def execute(program: Program, values: Mapping[str, Any]) -> str:
    """Return the text that a template makes of some values.

    Args:
        program: the parsed template.
        values: what `.` is at the start; a name that is missing is nil.

    Raises:
        TemplateError: the template fails as Go's would, runs too long or writes too much.
        UnsupportedError: it calls something that we do not know.
    """
    state = State(program)
    state.variables.append(("$", values))
    state.run(program.nodes, values)
    return "".join(state.written)


class State:
    """One run: what is written, and the variables in reach."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.written: list[str] = []
        self.n_written = 0
        self.variables: list[tuple[str, Any]] = []
        self.depth = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def write(self, text: str) -> None:
        """Add to the output."""
        self.n_written += len(text)
        if self.n_written > MAX_OUTPUT:
            raise TemplateError(f"it wrote more than {MAX_OUTPUT:,} characters")
        self.written.append(text)

    def run(self, nodes: Iterable[Node], dot: Any) -> None:
        """Run nodes one after the other."""
        if time.monotonic() > self.deadline:
            raise TemplateError(f"it ran for more than {MAX_SECONDS:g} seconds")
        for node in nodes:
            self.step(node, dot)

    def step(self, node: Node, dot: Any) -> None:
        """Run one node."""
        if isinstance(node, Text):
            self.write(node.text)
        elif isinstance(node, Action):
            value = self.pipe(node.pipe, dot)
            if not node.pipe.variables:
                self.write(go_text(value))
        elif isinstance(node, Range):
            self.loop(node, dot)
        elif isinstance(node, If | With):
            self.branch(node, dot)
        elif isinstance(node, Include):
            self.include(node, dot)
        elif isinstance(node, Break):
            raise Stop
        else:
            assert isinstance(node, Continue)  # noqa: S101  no other node exists
            raise Skip

    def branch(self, node: If | With, dot: Any) -> None:
        """Run an `if` or `with`, whose variables end with it."""
        mark = len(self.variables)
        value = self.pipe(node.pipe, dot)
        if truth(value):
            self.run(node.body, value if isinstance(node, With) else dot)
        elif node.other is not None:
            self.run(node.other, dot)
        del self.variables[mark:]

    def loop(self, node: Range, dot: Any) -> None:
        """Run a `range` over a list, a map in the order of its keys, or a number."""
        mark = len(self.variables)
        found = self.pipe(Pipe(node.pipe.calls, line=node.pipe.line), dot)
        names = node.pipe.variables
        empty = True
        for key, value in elements(found, node.pipe.line):
            empty = False
            turn = len(self.variables)
            for name, one in zip(
                names, (value,) if len(names) == 1 else (key, value), strict=False
            ):
                self.set(name, one, declare=node.pipe.declares)
            try:
                self.run(node.body, value)
            except Skip:
                pass
            except Stop:
                break
            finally:
                del self.variables[turn:]
        if empty and node.other is not None:
            self.run(node.other, dot)
        del self.variables[mark:]

    def include(self, node: Include, dot: Any) -> None:
        """Run a named template, which sees only its own value."""
        body = self.program.defined.get(node.name)
        if body is None:
            raise TemplateError(f"line {node.line}: template {node.name!r} is not defined")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TemplateError(f"templates use each other more than {MAX_DEPTH} deep")
        value = None if node.pipe is None else self.pipe(node.pipe, dot)
        outer, self.variables = self.variables, [("$", value)]
        self.run(body, value)
        self.variables = outer
        self.depth -= 1

    def set(self, name: str, value: Any, *, declare: bool) -> None:
        """Make a variable, or change the nearest of its name."""
        if not declare:
            for place in range(len(self.variables) - 1, -1, -1):
                if self.variables[place][0] == name:
                    self.variables[place] = (name, value)
                    return
            raise TemplateError(f"undefined variable {name!r}")
        self.variables.append((name, value))

    def get(self, name: str) -> Any:
        """Return the value of a variable."""
        for found, value in reversed(self.variables):
            if found == name:
                return value
        raise TemplateError(f"undefined variable {name!r}")

    def pipe(self, pipe: Pipe, dot: Any) -> Any:
        """Return the value of a pipeline."""
        value = NOTHING
        try:
            for one in pipe.calls:
                value = self.call(one, dot, value)
        except TemplateError as error:
            if error.message.startswith("line "):
                raise
            raise TemplateError(f"line {pipe.line}: {error.message}", hint=error.hint) from error
        for name in pipe.variables:
            self.set(name, value, declare=pipe.declares)
        return value

    def call(self, node: Call, dot: Any, piped: Any) -> Any:
        """Return the value of one command."""
        first, *rest = node.words
        if isinstance(first, Function):
            return self.function(first.name, rest, dot, piped)
        if rest or piped is not NOTHING:
            raise TemplateError("a value that is no function is given arguments")
        if isinstance(first, Literal) and first.value is None:
            raise TemplateError("nil is not a command")
        return self.operand(first, dot)

    def function(self, name: str, words: list[Any], dot: Any, piped: Any) -> Any:
        """Call a function; `and` and `or` stop as soon as they can."""
        if name in {"and", "or"}:
            return self.choose(name, words, dot, piped)
        arguments = [self.operand(word, dot) for word in words]
        return call(name, arguments if piped is NOTHING else [*arguments, piped])

    def choose(self, name: str, words: list[Any], dot: Any, piped: Any) -> Any:
        """Return the first argument that decides an `and` or `or`, else the last."""
        value = NOTHING
        for word in words:
            value = self.operand(word, dot)
            if truth(value) is (name == "or"):
                return value
        if piped is not NOTHING:
            return piped
        if value is NOTHING:
            raise TemplateError(f"{name} is given no argument")
        return value

    def operand(self, word: Any, dot: Any) -> Any:  # noqa: PLR0911  one for each kind
        """Return the value of one operand."""
        if isinstance(word, Literal):
            return word.value
        if isinstance(word, Dot):
            return dot
        if isinstance(word, Field):
            return fields(dot, word.names)
        if isinstance(word, Variable):
            return fields(self.get(word.name), word.names)
        if isinstance(word, Chain):
            return fields(self.pipe(word.base, dot), word.names)
        if isinstance(word, Pipe):
            return self.pipe(word, dot)
        return self.function(word.name, [], dot, NOTHING)


def fields(value: Any, names: tuple[str, ...]) -> Any:
    """Return a field of a field of … a value."""
    for name in names:
        if isinstance(value, Struct):
            if name not in value.fields:
                raise TemplateError(f"can't evaluate field {name} in type {value.kind}")
            value = value.fields[name]
        elif isinstance(value, Mapping):
            value = value.get(name)
        elif value is None:
            raise TemplateError(f"nil pointer evaluating interface {{}}.{name}")
        else:
            raise TemplateError(f"can't evaluate field {name} in type {type(value).__name__}")
    return value


def elements(value: Any, line: int) -> Iterable[tuple[Any, Any]]:
    """Return what a loop goes over, as pairs of key and value."""
    if value is None:
        return []
    if isinstance(value, list):
        return enumerate(value)
    if isinstance(value, dict):
        return ((key, value[key]) for key in sorted(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return ((number, number) for number in range(value))
    raise TemplateError(f"line {line}: range can't iterate over {go_text(value)}")
