"""Scores kept per model, beside its runs, and what the last one was."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.evaluate.scores import Score, Verdict, comparison_of

if TYPE_CHECKING:
    from llamune.evaluate.items import Item
    from llamune.evaluate.metrics import Metric
    from llamune.store import Model, ModelName

__all__ = [
    "KeptScore",
    "digest_of_test",
    "keep",
    "kept_score",
    "kept_scores",
    "regression",
    "scores_path",
    "scores_path_of_name",
]

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class KeptScore:
    """A score as it was kept.

    Attributes:
        time: when it was measured, ISO 8601, UTC.
        model: what the person called the model.
        run: the run that made the model, where it was tuned here.
        identity: tells one state of the model from another.
        test: SHA-256 of the questions, to compare like with like.
        score: the score.
        values: each item's, in the order of the test file.
    """

    time: str
    model: str
    run: str | None
    identity: str
    test: str
    score: Score
    values: tuple[float, ...]


def digest_of_test(items: Sequence[Item]) -> str:
    """Return the SHA-256 of a test: the same questions in the same order."""
    return hashlib.sha256("".join(item.digest for item in items).encode()).hexdigest()


def kept_score(
    score: Score,
    items: Sequence[Item],
    values: Sequence[float],
    *,
    model: str,
    run: str | None,
    identity: str,
) -> KeptScore:
    """Return a score that was measured now, as it is kept."""
    return KeptScore(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model,
        run=run,
        identity=identity,
        test=digest_of_test(items),
        score=score,
        values=tuple(values),
    )


def scores_path_of_name(name: ModelName) -> Path:
    """Return the file of the scores of a named model, in the folder of its runs."""
    from llamune.runs import runs_folder

    model, _, tag = str(name).rpartition(":")
    return runs_folder().joinpath(*model.split("/"), tag, "scores.jsonl")


def scores_path(model: Model) -> Path:
    """Return the file of a model's scores; of one without a name, a file for its path."""
    from llamune.runs import runs_folder

    if model.name is not None:
        return scores_path_of_name(model.name)
    short = hashlib.sha256(str(model.path.resolve()).encode()).hexdigest()[:8]
    return runs_folder() / "files" / f"{UNSAFE.sub('-', model.path.stem)}-{short}.jsonl"


def keep(path: Path, entry: KeptScore) -> None:
    """Add a score to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")


def kept_scores(path: Path) -> list[KeptScore]:
    """Return the scores in a file, oldest first; lines that cannot be read are passed over."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text("utf-8").splitlines():
        try:
            found.append(kept(json.loads(line)))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def kept(data: dict[str, Any]) -> KeptScore:
    """Return a score from its line."""
    values = tuple(float(value) for value in data.pop("values"))
    return KeptScore(score=Score(**data.pop("score")), values=values, **data)


def regression(
    before: KeptScore, metric: Metric, values: Sequence[float], clusters: Sequence[str] | None
) -> Verdict:
    """Return how new scores compare with those kept, item by item."""
    task = before.score.task
    return comparison_of(task, metric, before.values, values, clusters=clusters).verdict
