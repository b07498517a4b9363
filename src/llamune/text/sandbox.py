"""Jinja in a sandbox: a template out of a file may not reach out, run on, or blow up.

Jinja's own sandbox keeps a template away from Python's inner attributes, but bounds neither time
nor memory. Here every loop turn, call and filter looks at the clock, everything written is
counted, and an operation that may make far more than goes in is measured before it runs.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from llamune.text.growth import (
    MAX_OUTPUT,
    LimitError,
    measured,
    refuse_growth,
    refuse_operation,
    refuse_range,
)

__all__ = ["MAX_SECONDS", "MAX_SOURCE", "Sandbox", "limits", "to_json"]

MAX_SECONDS = 3.0
MAX_SOURCE = 1 << 20  # characters of a template; the largest in use have about 20,000
SPEND = "llamune_spend"
MEASURE = "llamune_measure"
# regular expressions in these take quadratic time on hostile text, and no chat template uses them
DROPPED_FILTERS = ("striptags", "urlize", "wordwrap", "random")


Body = TypeVar("Body", nodes.For, nodes.Macro, nodes.CallBlock)


class Budget:
    """What one rendering may still use."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.n_written = 0

    def step(self) -> None:
        """Look at the clock."""
        if time.monotonic() > self.deadline:
            raise LimitError(f"it ran for more than {self.seconds:g} seconds")

    def write(self, n_characters: int) -> None:
        """Count what was written, here or into a block that may be used later."""
        self.n_written += n_characters
        if self.n_written > MAX_OUTPUT:
            raise LimitError(f"it wrote more than {MAX_OUTPUT:,} characters")


BUDGET: ContextVar[Budget] = ContextVar("BUDGET")


@contextmanager
def limits() -> Iterator[None]:
    """Bound what is rendered inside the block."""
    token = BUDGET.set(Budget(MAX_SECONDS))
    try:
        yield
    finally:
        BUDGET.reset(token)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, set up as model makers expect it, with limits."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants are worked out while rendering, under the limits
            finalize=count_written,
            extensions=[loopcontrols, Generation],
            cache_size=0,
        )
        self.filters["tojson"] = to_json
        for name in DROPPED_FILTERS:
            del self.filters[name]
        self.filters["safe"] = as_it_is  # nothing is escaped, so nothing needs to be marked
        self.filters = {name: guarded(name, run) for name, run in self.filters.items()}
        self.filters[SPEND] = spend
        self.filters[MEASURE] = measured
        self.globals["range"] = bounded_range
        self.globals["raise_exception"] = raise_exception
        self.globals["strftime_now"] = strftime_now

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = Parser(self, source, name, filename).parse()
        watched: nodes.Template = Watching().visit(tree)
        return watched

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute; it may change lists, which are copies."""
        return (attr in {"append", "pop"} and type(obj) is list) or super().is_safe_attribute(
            obj, attr, value
        )

    def call(self, context: Any, function: Any, /, *arguments: Any, **options: Any) -> Any:
        """Call a function or method for the template."""
        BUDGET.get().step()
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps `str.format`
        refuse_growth(
            getattr(method, "__name__", ""),
            getattr(method, "__self__", None),
            [*arguments, *options.values()],
        )
        return measured(super().call(context, function, *arguments, **options))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Work out an operation whose result may be large."""
        BUDGET.get().step()
        refuse_operation(operator, left, right)
        return measured(super().call_binop(context, operator, left, right))


class Watching(NodeTransformer):
    """Puts the counting into a parsed template: every loop turn and macro call pays first."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  named after the node
        """Count each turn of a loop."""
        return self.paying(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        """Count each call of a macro."""
        return self.paying(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:  # noqa: N802
        """Count each use of the block that a call is given."""
        return self.paying(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        """Measure what `~` makes."""
        self.generic_visit(node)
        return nodes.Filter(node, MEASURE, [], [], None, None, lineno=node.lineno)

    def paying(self, node: Body) -> Body:
        """Return `node` with the price of its plain text in front of its body."""
        self.generic_visit(node)
        price = sum(len(text.data) for text in plain_text(node.body))
        toll = nodes.Filter(nodes.Const(price), SPEND, [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.Output([toll], lineno=node.lineno))
        return node


def plain_text(body: list[nodes.Node]) -> Iterator[nodes.TemplateData]:
    """Yield the plain text of some nodes and all they contain."""
    for node in body:
        yield from node.find_all(nodes.TemplateData)


def spend(n_characters: int) -> str:
    """Count plain text about to be written; writes nothing itself."""
    budget = BUDGET.get()
    budget.step()
    budget.write(n_characters)
    return ""


def count_written(value: Any) -> Any:
    """Return a value about to be written, its length counted."""
    text = value if isinstance(value, str) else str(value)
    BUDGET.get().write(len(text))
    return value


def guarded(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that looks at the clock and whose result is measured."""
    n_hidden = 1 if hasattr(run, "jinja_pass_arg") else 0  # the environment or context

    @functools.wraps(run)
    def filtered(*arguments: Any, **options: Any) -> Any:
        BUDGET.get().step()
        subject, *given = arguments[n_hidden:]
        refuse_growth(name, subject, [*given, *options.values()])
        return measured(run(*arguments, **options))

    return filtered


class Generation(Extension):
    """Reads `{% generation %}…{% endgeneration %}`, a mark for training masks, as plain text."""

    tags = {"generation"}  # noqa: RUF012  the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def bounded_range(*arguments: int) -> range:
    """Return a range that is not absurdly long."""
    return refuse_range(range(*arguments))


def as_it_is(value: Any) -> Any:
    """Return what is given."""
    return value


def raise_exception(message: str) -> None:
    """Refuse the messages, for a reason that the template gives."""
    raise jinja2.TemplateError(message)


def strftime_now(pattern: str) -> str:
    """Return the present time in a form that the template chooses."""
    return time.strftime(pattern)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return `value` as JSON, letters left as they are (Jinja's own filter escapes HTML)."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=listed,
    )


def listed(value: Any) -> list[Any]:
    """Return what a filter such as `map` yields, for JSON.

    Raises:
        TypeError: it yields nothing.
    """
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")
