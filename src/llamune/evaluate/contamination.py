"""Test questions that a model has seen in training: their scores say nothing.

Source: the 13-gram rule of GPT-3 (arXiv:2005.14165, appendix C) and datatrove, with 30
characters in place of 13 words where a text has no spaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llamune.errors import LlamuneError
from llamune.evaluate.items import Item
from llamune.evaluate.normal import normalised, words_of

if TYPE_CHECKING:
    from llamune.data import Record
    from llamune.runs import Run
    from llamune.store import Model

__all__ = ["Overlap", "Training", "overlaps", "training_of"]

N_WORDS = 13
N_CHARACTERS = 30


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A test item found in the training data.

    Attributes:
        place: the item's number, from 0.
        kind: the same question, or a long run of the same words.
    """

    place: int
    kind: Literal["same question", "shared text"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a model was trained on.

    Attributes:
        run: the run that made it.
        pairs: each question that it holds, with its answer.
    """

    run: str
    pairs: tuple[tuple[str, str], ...]


def training_of(model: Model) -> Training | None:
    """Return what a model was trained on; None where no run made it.

    Raises:
        LlamuneError: the run is gone, or its data files are gone or not what they were.
    """
    from llamune.data import read_records
    from llamune.runs import Run

    reference = model.annotations.get("llamune.run")
    if reference is None:
        return None
    files = unchanged_files(Run.find(reference))
    pairs = (pair for record in read_records(files).records for pair in pairs_of(record))
    return Training(run=reference, pairs=tuple(pairs))


def unchanged_files(run: Run) -> list[Path]:
    """Return the files that a run was trained on.

    Raises:
        LlamuneError: one is gone, or is not what it was.
    """
    from llamune.files import sha256_of

    facts = run.record.data
    if facts is None:
        raise LlamuneError(f"{run.reference} has no record of its data")
    for name, digest in zip(facts.files, facts.sha256, strict=False):
        path = Path(name)
        if not path.exists():
            raise LlamuneError(f"{path}: gone, and {run.reference} was trained on it")
        if digest and sha256_of(path) != digest:
            raise LlamuneError(f"{path}: changed since {run.reference} was trained on it")
    return [Path(name) for name in facts.files]


def pairs_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield each question and answer of a record; plain text is an answer without a question."""
    if record.text is not None:
        yield "", record.text
    question = ""
    for message in record.messages:
        if message.role == "user":
            question = message.content
        elif message.role == "assistant":
            yield question, message.content


def overlaps(items: Sequence[Item], training: Training) -> list[Overlap]:
    """Return the items that training data hold."""
    questions: set[str] = set()
    runs: set[int] = set()
    for question, answer in training.pairs:
        questions.add(normalised(question))
        runs.update(runs_of(f"{question}\n{answer}"))
    found = []
    for place, item in enumerate(items):
        if normalised(item.question) in questions:
            found.append(Overlap(place=place, kind="same question"))
        elif not runs.isdisjoint(runs_of(f"{item.question}\n{item.expected[0]}")):
            found.append(Overlap(place=place, kind="shared text"))
    return found


def runs_of(text: str) -> Iterator[int]:
    """Yield a number for each long run of words; texts shorter than a run have none."""
    words = words_of(text)
    spaced = sum(len(word) > 1 for word in words) * 2 > len(words)
    length = N_WORDS if spaced else N_CHARACTERS
    for start in range(len(words) - length + 1):
        yield hash(tuple(words[start : start + length]))
