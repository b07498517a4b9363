"""What a model made of each item: its answer or likelihoods, and the score of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llamune.errors import UnsupportedError
from llamune.evaluate.answers import AnswerBook, answers_of, identity_of
from llamune.evaluate.distributions import bits_per_byte
from llamune.evaluate.items import Item
from llamune.evaluate.judge import Judge
from llamune.evaluate.likelihoods import Likelihoods
from llamune.evaluate.metrics import METRICS, Metric

if TYPE_CHECKING:
    from llamune.engine import Engine
    from llamune.store import Model

__all__ = ["Asking", "Outcome", "outcomes_of"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model made of one item.

    Attributes:
        answer: what it said; for a choice the likeliest one, for a likelihood the expected answer.
        score: by the metric; nats a token for a perplexity.
    """

    answer: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How items are put to a model.

    Attributes:
        engine: None for llama.cpp in this process, `ollama`, or the URL of an OpenAI-compatible
            endpoint.
        max_tokens: tokens of an answer, at most.
        n_parallel: questions asked at the same time.
        n_threads: CPU threads; default the idle cores.
        fresh: whether answers that are kept from before are asked again.
        advance: called with 1 for each item done.
    """

    engine: str | None = None
    max_tokens: int = 256
    n_parallel: int = 4
    n_threads: int | None = None
    fresh: bool = False
    advance: Callable[[int], object] | None = None


def outcomes_of(
    model: Model | str,
    items: Sequence[Item],
    metrics: Sequence[Metric],
    asking: Asking,
    *,
    judge: Judge | None = None,
) -> list[Outcome]:
    """Put every item to a model and score what comes back.

    Args:
        model: the model; its name where it runs elsewhere.
        items: the questions.
        metrics: the metric of each item.
        asking: how they are asked.
        judge: marks answers where a metric asks for one.

    Raises:
        EngineError: the engine cannot be had, or refuses a question.
        LlamuneError: a metric does not fit its item.
    """
    likely = [i for i, metric in enumerate(metrics) if metric.needs == "likelihood"]
    asked = [i for i, metric in enumerate(metrics) if metric.needs != "likelihood"]
    found: dict[int, Outcome] = {}
    if likely:
        chosen = [items[i] for i in likely]
        found |= zip(
            likely, by_likelihood(model, chosen, [metrics[i] for i in likely], asking), strict=True
        )
    if asked:
        chosen = [items[i] for i in asked]
        texts = said(model, chosen, asking)
        marks = scores_of(
            chosen, texts, [metrics[i] for i in asked], judge, n_parallel=asking.n_parallel
        )
        found |= {
            i: Outcome(answer=text, score=mark)
            for i, text, mark in zip(asked, texts, marks, strict=True)
        }
    return [found[i] for i in range(len(items))]


def book_of(
    model: Model | str, purpose: str, settings: Mapping[str, Any], asking: Asking
) -> AnswerBook:
    """Return the book of what a model said to a purpose; an empty one to ask afresh."""
    if asking.fresh:
        return AnswerBook(None)
    identity = f"{asking.engine}:{model}" if isinstance(model, str) else identity_of(model)
    return AnswerBook.for_model(identity, purpose, settings)


def said(model: Model | str, items: Sequence[Item], asking: Asking) -> list[str]:
    """Return a model's answers, from its book where they are there."""
    from llamune.engine import GenerateOptions

    options = GenerateOptions(temperature=0, max_tokens=asking.max_tokens, seed=0)
    book = book_of(model, "answers", asdict(options), asking)
    missing = [item for item in items if book.get(item.digest) is None]
    with ExitStack() as stack:
        engine = stack.enter_context(opened(model, asking)) if missing else None
        return answers_of(
            engine, items, options, n_parallel=asking.n_parallel, book=book, advance=asking.advance
        )


def opened(model: Model | str, asking: Asking) -> Engine:
    """Open the engine that answers."""
    from llamune.engine import open_engine, open_remote

    if isinstance(model, str):
        return open_remote(asking.engine or "", model)
    return open_engine(model, n_threads=asking.n_threads, n_parallel=asking.n_parallel)


def scores_of(
    items: Sequence[Item],
    texts: Sequence[str],
    metrics: Sequence[Metric],
    judge: Judge | None,
    *,
    n_parallel: int,
) -> list[float]:
    """Return the score of each answer; a judge marks several at a time.

    Raises:
        LlamuneError: a metric needs a judge and there is none.
    """
    marks: dict[int, float] = {}
    judged = []
    for place, metric in enumerate(metrics):
        if metric.score is None:
            judged.append(place)
        else:
            marks[place] = metric.score(texts[place], items[place])
    if judged:
        mark = Judge.needed(judge).mark
        with ThreadPoolExecutor(n_parallel) as pool:
            found = pool.map(lambda place: mark(items[place], texts[place]), judged)
            marks |= zip(judged, found, strict=True)
    return [marks[place] for place in range(len(items))]


def by_likelihood(
    model: Model | str, items: Sequence[Item], metrics: Sequence[Metric], asking: Asking
) -> list[Outcome]:
    """Score items by how likely the model finds given answers.

    Raises:
        UnsupportedError: the engine is remote.
    """
    if isinstance(model, str):
        raise UnsupportedError(
            f"{model}: likelihoods of given texts cannot be had from a remote engine",
            hint="score it here: leave out --engine",
        )
    book = book_of(model, "losses", {}, asking)
    out = []
    with Likelihoods(model, book=book, n_threads=asking.n_threads) as likelihoods:
        for item, metric in zip(items, metrics, strict=True):
            out.append(outcome_of(likelihoods, item, metric))
            if asking.advance is not None:
                asking.advance(1)
    return out


def outcome_of(likelihoods: Likelihoods, item: Item, metric: Metric) -> Outcome:
    """Return the outcome of an item by one of the metrics of likelihood.

    Raises:
        LlamuneError: a choice whose right answer is none of the choices.
    """
    if metric is METRICS["choice"]:
        right = item.right_choice
        totals = [sum(likelihoods.losses(item, choice)) for choice in item.choices]
        chosen = totals.index(min(totals))
        return Outcome(answer=item.choices[chosen], score=float(chosen == right))
    answer = item.expected[0]
    losses = likelihoods.losses(item, answer)
    if metric is METRICS["perplexity"]:
        return Outcome(answer=answer, score=fmean(losses))
    return Outcome(answer=answer, score=bits_per_byte(losses, len(answer.encode())))
