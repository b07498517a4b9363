"""What a model made of each item: its answer or likelihoods, and the score of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llamune.evaluate.answers import AnswerBook, answers_of, identity_of
from llamune.evaluate.distributions import bits_per_byte, token_losses
from llamune.evaluate.items import Item
from llamune.evaluate.judge import Judge
from llamune.evaluate.metrics import METRICS, Metric

if TYPE_CHECKING:
    from llamune.engine import Engine, NativeModel
    from llamune.store import Model
    from llamune.text import ChatTemplate, Tokenizer

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
        marks = scores_of(chosen, texts, [metrics[i] for i in asked], judge)
        found |= {
            i: Outcome(answer=text, score=mark)
            for i, text, mark in zip(asked, texts, marks, strict=True)
        }
    return [found[i] for i in range(len(items))]


def said(model: Model | str, items: Sequence[Item], asking: Asking) -> list[str]:
    """Return a model's answers, from its book where they are there."""
    from llamune.engine import GenerateOptions

    options = GenerateOptions(temperature=0, max_tokens=asking.max_tokens, seed=0)
    identity = f"{asking.engine}:{model}" if isinstance(model, str) else identity_of(model)
    if asking.fresh:
        book = AnswerBook(None)
    else:
        book = AnswerBook.for_model(identity, "answers", asdict(options))
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
) -> list[float]:
    """Return the score of each answer.

    Raises:
        LlamuneError: a metric needs a judge and there is none.
    """
    marks = []
    for item, text, metric in zip(items, texts, metrics, strict=True):
        if metric.score is not None:
            marks.append(metric.score(text, item))
        else:
            marks.append(Judge.needed(judge).mark(item, text))
    return marks


def by_likelihood(
    model: Model | str, items: Sequence[Item], metrics: Sequence[Metric], asking: Asking
) -> list[Outcome]:
    """Score items by how likely the model finds given answers."""
    from llamune.engine import AdapterFile, NativeModel
    from llamune.errors import UnsupportedError
    from llamune.gguf import ModelFile
    from llamune.text import template_of, tokenizer_of

    if isinstance(model, str):
        raise UnsupportedError(
            f"{model}: likelihoods of given texts cannot be had from a remote engine",
            hint="score it here: leave out --engine",
        )
    adapters = [AdapterFile(path=one.path, scale=one.scale) for one in model.adapters]
    with (
        ModelFile.open(model.paths) as file,
        NativeModel(model.paths, adapters=adapters) as native,
    ):
        tokenizer = tokenizer_of(file)
        reader = Likelihoods(native, tokenizer, template_of(model, file, tokenizer), asking)
        out = []
        for item, metric in zip(items, metrics, strict=True):
            out.append(reader.outcome(item, metric))
            if asking.advance is not None:
                asking.advance(1)
        return out


class Likelihoods:
    """Losses of given answers after a prompt, from llama.cpp's whole distributions."""

    def __init__(
        self, native: NativeModel, tokenizer: Tokenizer, template: ChatTemplate, asking: Asking
    ) -> None:
        self._native = native
        self._tokenizer = tokenizer
        self._template = template
        self._asking = asking

    def losses(self, item: Item, answer: str) -> Any:
        """Return the loss of each token of an answer, nats."""
        from llamune.text import prompt_ids

        prompt = prompt_ids(
            self._template, self._tokenizer, list(item.messages), add_generation_prompt=True
        )
        ids = [*prompt, *self._tokenizer.encode(answer, parse_special=False)]
        (logits,) = self._native.logits([ids], n_threads=self._asking.n_threads)
        return token_losses(logits[len(prompt) - 1 :], ids[len(prompt) - 1 :])

    def outcome(self, item: Item, metric: Metric) -> Outcome:
        """Return the outcome of an item by one of the metrics of likelihood."""
        if metric is METRICS["choice"]:
            totals = [float(self.losses(item, choice).sum()) for choice in item.choices]
            chosen = totals.index(min(totals))
            return Outcome(answer=item.choices[chosen], score=float(chosen == item.right_choice))
        answer = item.expected[0]
        losses = self.losses(item, answer)
        if metric is METRICS["perplexity"]:
            return Outcome(answer=answer, score=float(losses.mean()))
        return Outcome(answer=answer, score=bits_per_byte(losses, len(answer.encode())))
