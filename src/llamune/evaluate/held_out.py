"""Base against tuned on records that were held out of a training, and the score kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llamune.evaluate.answers import answers_of, identity_of
from llamune.evaluate.history import keep, kept_score, scores_path_of_name
from llamune.evaluate.items import Item, item_of
from llamune.evaluate.metrics import METRICS, Metric, metric_of, metrics_of
from llamune.evaluate.scores import Comparison, clusters_of, comparison_of
from llamune.store import ModelName

if TYPE_CHECKING:
    from llamune.data import Record
    from llamune.engine import EmbeddedEngine, GenerateOptions
    from llamune.store import Model

__all__ = ["score_records"]

MAX_ANSWER_TOKENS = 256


def score_records(
    model: Model,
    records: Sequence[Record],
    *,
    task: str,
    tuned: Model | Path,
    name: str | None = None,
    run: str | None = None,
    n_threads: int | None = None,
    n_parallel: int = 4,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> Comparison:
    """Score a base and its tuning on held-out records.

    Args:
        model: the base.
        records: questions with their answers.
        task: what to call them.
        tuned: the tuning: a GGUF adapter, asked in the same loaded llama.cpp, or a whole model.
        name: what the tuned model is called; its score is kept under it.
        run: the run that made the tuning.
        n_threads: CPU threads; default the idle cores.
        n_parallel: questions asked at the same time.
        max_tokens: tokens of an answer, at most.

    Raises:
        EngineError: llama.cpp refuses the model, the adapter or a question.
        LlamuneError: a record is no question with an answer.
    """
    from llamune.engine import GenerateOptions

    items = [item_of(record) for record in records]
    metric = metric_of(items)
    if metric.needs != "answer":
        metric = METRICS["chrf"]
    metrics = metrics_of(metric, items)
    options = GenerateOptions(temperature=0, max_tokens=max_tokens)
    before, after = (
        scored(metrics, texts, items)
        for texts in said_by_both(
            model, tuned, items, options, n_threads=n_threads, n_parallel=n_parallel
        )
    )
    compared = comparison_of(task, metric, before, after, clusters=clusters_of(items))
    if name is not None:
        if isinstance(tuned, Path):
            identity = identity_of(model, adapters=[tuned])
        else:
            identity = identity_of(tuned)
        entry = kept_score(compared.after, items, after, model=name, run=run, identity=identity)
        keep(scores_path_of_name(ModelName.parse(name)), entry)
    return compared


def said_by_both(
    model: Model,
    tuned: Model | Path,
    items: Sequence[Item],
    options: GenerateOptions,
    *,
    n_threads: int | None,
    n_parallel: int,
) -> Iterator[list[str]]:
    """Yield the answers of a base, then those of its tuning; one model in memory at a time."""
    from llamune.engine import LoadedAdapter, open_engine

    def opened(one: Model, adapters: Sequence[LoadedAdapter] = ()) -> EmbeddedEngine:
        return open_engine(one, adapters=adapters, n_threads=n_threads, n_parallel=n_parallel)

    if isinstance(tuned, Path):
        adapter = LoadedAdapter(name="tuned", path=tuned)
        with opened(model, [adapter]) as engine:
            for strength in (0.0, 1.0):
                scales = {adapter.name: strength}
                yield answers_of(engine, items, options, scales=scales, n_parallel=n_parallel)
        return
    for one in (model, tuned):
        with opened(one) as engine:
            yield answers_of(engine, items, options, n_parallel=n_parallel)


def scored(metrics: Sequence[Metric], texts: Sequence[str], items: Sequence[Item]) -> list[float]:
    """Return the score of each answer; chrF where a metric needs more than the answer."""
    found = []
    for metric, text, item in zip(metrics, texts, items, strict=True):
        score = metric.score or METRICS["chrf"].score
        assert score is not None  # noqa: S101  chrF needs no more than the answer
        found.append(score(text, item))
    return found
