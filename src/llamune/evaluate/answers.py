"""A model's answers to questions: several at a time, kept, and gone on with after a stop."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.store import Model, home

if TYPE_CHECKING:
    from llamune.engine import Engine, GenerateOptions
    from llamune.evaluate.items import Item

__all__ = ["AnswerBook", "answers_of", "identity_of"]

Advance = Callable[[int], object]


def identity_of(model: Model, *, adapters: Sequence[Path] = ()) -> str:
    """Return what tells one model's answers from another's.

    Digests where a store knows them; path, size and time of change for files outside.
    """
    parts = [model.digest or stamp(model.path), str(model.system), json.dumps(model.parameters)]
    parts += [adapter.digest or stamp(adapter.path) for adapter in model.adapters]
    parts += [stamp(path) for path in adapters]
    parts.append(json.dumps([dict(message) for message in model.messages]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def stamp(path: Path) -> str:
    """Return a file's path, size and time of change."""
    found = path.stat()
    return f"{path.resolve()}:{found.st_size}:{found.st_mtime_ns}"


class AnswerBook:
    """Answers on disk: one line each, added as they come, so that a stopped run goes on.

    Args:
        path: the file; None keeps answers for this process only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["question"]] = entry["answer"]
                except (ValueError, KeyError, TypeError):
                    continue  # the line that a power cut left half written

    @classmethod
    def for_model(cls, identity: str, purpose: str, settings: Mapping[str, Any]) -> AnswerBook:
        """Return the book of one model, purpose and way of asking, under `$LLAMUNE_HOME`."""
        key = json.dumps([identity, purpose, settings], sort_keys=True, default=str)
        name = hashlib.sha256(key.encode()).hexdigest()
        return cls(home() / "answers" / f"{name}.jsonl")

    def get(self, question: str) -> Any:
        """Return the answer to a question, None where there is none yet."""
        return self._known.get(question)

    def put(self, question: str, answer: Any) -> None:
        """Keep an answer."""
        with self._lock:
            self._known[question] = answer
            if self._path is None:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"question": question, "answer": answer}, ensure_ascii=False)
            with self._path.open("a", encoding="utf-8") as out:
                out.write(f"{line}\n")


def answers_of(
    engine: Engine | None,
    items: Sequence[Item],
    options: GenerateOptions,
    *,
    scales: Mapping[str, float] | None = None,
    n_parallel: int = 1,
    book: AnswerBook | None = None,
    advance: Advance | None = None,
) -> list[str]:
    """Return the model's answer to each item.

    Args:
        engine: answers what the book does not; None where the book has every answer.
        items: the questions.
        options: how to choose tokens.
        scales: adapter name → strength; default as the engine was opened.
        n_parallel: questions asked at the same time.
        book: where answers are kept; those in it are not asked again.
        advance: called with 1 for each answer.

    Raises:
        EngineError: the engine refuses a question.
    """
    kept = book or AnswerBook(None)

    def answer(item: Item) -> str:
        found = kept.get(item.digest)
        if found is None:
            assert engine is not None  # noqa: S101  the caller looked into the book
            found = engine.answer(item.messages, options, scales=scales).text
            kept.put(item.digest, found)
        if advance is not None:
            advance(1)
        return str(found)

    with ThreadPoolExecutor(n_parallel) as pool:
        return list(pool.map(answer, items))
