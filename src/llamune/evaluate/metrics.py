"""What a right answer is: one function a metric, from answer and item to 0 … 1.

Metrics that need the model's distributions (`choice`, `bits-per-byte`, `perplexity`) or another
model (`judge`) are named here too, and computed where the model runs.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import regex

from llamune.errors import LlamuneError
from llamune.evaluate.items import Item
from llamune.evaluate.normal import normalised
from llamune.evaluate.overlap import chrf, rouge_l

__all__ = ["METRICS", "MIXED", "Metric", "metric_named", "metric_of", "metrics_of"]

ScoreAnswer = Callable[[str, Item], float]
Needs = Literal["answer", "likelihood", "judge"]

REGEX_SECONDS = 2.0
SHORT_CHARACTERS = 60
NUMBER = regex.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
FENCE = regex.compile(r"```(?:json)?\s*\n(.*?)```", regex.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A way to score.

    Attributes:
        name: as `--metric` takes it.
        means: what it measures, in one line.
        needs: what the score is computed from.
        score: from an answer and its item to a score; None where more is needed than these.
        higher_is_better: whether more is better.
        is_share: whether scores lie between 0 and 1.
        exponential: whether the mean of the scores is shown as its exponential (a perplexity).
    """

    name: str
    means: str
    needs: Needs = "answer"
    score: ScoreAnswer | None = None
    higher_is_better: bool = True
    is_share: bool = True
    exponential: bool = False


def exact(answer: str, item: Item) -> float:
    """1 where the answer is a right one, but for case, width, punctuation and spaces."""
    said = normalised(answer)
    return float(any(said == normalised(right) for right in item.expected))


def contains(answer: str, item: Item) -> float:
    """1 where a right answer stands somewhere in what was said."""
    said = normalised(answer)
    return float(any(normalised(right) in said for right in item.expected))


def best(measure: Callable[[str, str], float]) -> ScoreAnswer:
    """Score against each right answer and take the best."""

    def score(answer: str, item: Item) -> float:
        return max(measure(answer, right) for right in item.expected)

    return score


def matches(answer: str, item: Item) -> float:
    """1 where the item's pattern is found in the answer."""
    pattern = item.pattern if item.pattern is not None else item.expected[0]
    try:
        return float(regex.search(pattern, answer.strip(), timeout=REGEX_SECONDS) is not None)
    except TimeoutError:
        return 0.0
    except regex.error as error:
        raise LlamuneError(f"{item.where}: pattern: {error}") from error


def json_value(answer: str) -> Any:
    """Return the JSON value that an answer is, alone or in a code block.

    Raises:
        ValueError: it is none.
    """
    fenced = FENCE.search(answer)
    return json.loads(fenced[1] if fenced else answer)


def is_json(answer: str, item: Item) -> float:  # noqa: ARG001  every metric takes the item
    """1 where the answer is JSON."""
    try:
        json_value(answer)
    except ValueError:
        return 0.0
    return 1.0


def fits_schema(answer: str, item: Item) -> float:
    """1 where the answer is JSON that fits the item's schema."""
    import jsonschema_rs

    if item.schema is None:
        raise LlamuneError(f"{item.where}: metric schema, but the item has no `schema`")
    try:
        value = json_value(answer)
    except ValueError:
        return 0.0
    return float(jsonschema_rs.is_valid(dict(item.schema), value))


def number(answer: str, item: Item) -> float:
    """1 where the last number in the answer is the expected one, within the item's tolerance."""
    found = numbers_in(answer)
    wanted = numbers_in(item.expected[0])
    if not wanted:
        raise LlamuneError(f"{item.where}: metric number, but {item.expected[0]!r} has no number")
    if not found:
        return 0.0
    target = wanted[-1]
    tolerance = item.tolerance or "1e-6%"
    share = tolerance.endswith("%")
    allowed = float(tolerance.rstrip("%"))
    margin = abs(target) * allowed / 100 if share else allowed
    return float(abs(found[-1] - target) <= margin)


def numbers_in(text: str) -> list[float]:
    """Return the numbers in a text, full-width digits and thousands separators understood."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(normalised(text))]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="exact", means="the same text after normalisation", score=exact),
        Metric(name="contains", means="a right answer is part of the text", score=contains),
        Metric(name="choice", means="the right choice is the likeliest", needs="likelihood"),
        Metric(name="chrf", means="overlap of character n-grams", score=best(chrf)),
        Metric(name="rouge-l", means="longest common subsequence of words", score=best(rouge_l)),
        Metric(name="json", means="valid JSON", score=is_json),
        Metric(name="schema", means="JSON that fits the schema", score=fits_schema),
        Metric(name="regex", means="the pattern is found", score=matches),
        Metric(name="number", means="the number is right within its tolerance", score=number),
        Metric(
            name="perplexity",
            means="perplexity of the expected answer",
            needs="likelihood",
            higher_is_better=False,
            is_share=False,
            exponential=True,
        ),
        Metric(
            name="bits-per-byte",
            means="bits the expected answer costs a byte",
            needs="likelihood",
            higher_is_better=False,
            is_share=False,
        ),
        Metric(name="judge", means="another model's mark by a rubric", needs="judge"),
    )
}


MIXED = Metric(name="mixed", means="each item by its own metric")


def metrics_of(metric: Metric, items: Sequence[Item]) -> list[Metric]:
    """Return the metric of each item: the one given, or its own where that is `MIXED`."""
    if metric is MIXED:
        return [metric_of([item]) for item in items]
    return [metric] * len(items)


def metric_of(items: Sequence[Item]) -> Metric:
    """Return the metric that fits a test file: `MIXED` where its items name several.

    Raises:
        LlamuneError: items name metrics whose mean says nothing, one that is no share among them.
    """
    named = {item.metric for item in items if item.metric}
    if len(named) > 1:
        apart = sorted(name for name in named if not metric_named(name).is_share)
        if apart:
            raise LlamuneError(
                f"the test file names several metrics, and {apart[0]} cannot be averaged with "
                "another",
                hint="split it, or name one with --metric",
            )
        return MIXED
    if named:
        return metric_named(named.pop())
    for name, has in (
        ("choice", lambda item: item.choices),
        ("schema", lambda item: item.schema is not None),
        ("regex", lambda item: item.pattern is not None),
        ("number", lambda item: item.tolerance is not None),
    ):
        if all(has(item) for item in items):
            return METRICS[name]
    short = all(len(item.expected[0]) <= SHORT_CHARACTERS for item in items)
    return METRICS["exact" if short else "chrf"]


def metric_named(name: str) -> Metric:
    """Return a metric by name, or from a Python file that defines `score(answer, item)`.

    Raises:
        LlamuneError: there is no such metric, or the file has no such function.
    """
    if name in METRICS:
        return METRICS[name]
    if name.endswith(".py"):
        return metric_in_file(Path(name))
    raise LlamuneError(
        f"metric {name!r} is not known",
        hint=f"one of: {', '.join(METRICS)}; or a Python file with score(answer, item)",
    )


@cache
def metric_in_file(path: Path) -> Metric:
    """Load a metric that a person wrote: a file whose `score(answer, item)` gives 0 … 1.

    Raises:
        LlamuneError: the file is not there, does not load, or has no such function.
    """
    if not path.is_file():
        raise LlamuneError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"llamune_metric_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise LlamuneError(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # another person's code may raise anything
        raise LlamuneError(f"{path}: does not load: {described(error)}") from error
    written = getattr(module, "score", None)
    if not callable(written) or len(inspect.signature(written).parameters) != 2:
        raise LlamuneError(f"{path}: defines no function score(answer, item)")

    def score(answer: str, item: Item) -> float:
        try:
            value = float(cast(Any, written)(answer, item))
        except Exception as error:  # another person's code may raise anything
            raise LlamuneError(
                f"{path}: score failed at {item.where}: {described(error)}"
            ) from error
        if not 0 <= value <= 1:
            raise LlamuneError(f"{path}: score gave {value}; it must lie between 0 and 1")
        return value

    means = (inspect.getdoc(written) or "").split("\n", 1)[0] or "a metric of your own"
    return Metric(name=path.stem, means=means, score=score)


def described(error: Exception) -> str:
    """Return an error's kind and message."""
    return f"{type(error).__name__}: {error}"
