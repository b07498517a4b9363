"""Another model as judge: a mark by a rubric, forced into JSON."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from llamune.errors import LlamuneError
from llamune.evaluate.answers import AnswerBook

if TYPE_CHECKING:
    from llamune.engine import Engine
    from llamune.evaluate.items import Item

__all__ = ["RUBRIC", "Judge"]

BEST, WORST = 5, 1
RUBRIC = """\
5: right and complete, answers exactly what was asked
4: right, with a small omission or a needless addition
3: partly right
2: mostly wrong, or hardly an answer to the question
1: wrong, empty, or in the wrong language"""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "maxLength": 300},
        "mark": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
    },
    "required": ["reason", "mark"],
    "additionalProperties": False,
}
TASK = """\
You mark answers. Compare the answer with the reference and give a mark by this rubric:
{rubric}

Question:
{question}

Reference answer:
{reference}

Answer to mark:
{answer}

Reply in JSON: first the reason in one sentence, then the mark."""


class Judge:
    """Marks answers.

    Args:
        engine: the model that judges; best one of another family than the judged.
        rubric: what each mark from 5 to 1 means.
        book: where marks are kept; default none.
    """

    def __init__(
        self, engine: Engine, *, rubric: str = RUBRIC, book: AnswerBook | None = None
    ) -> None:
        self._engine = engine
        self._rubric = rubric
        self._book = book or AnswerBook(None)

    @staticmethod
    def needed(judge: Judge | None) -> Judge:
        """Return the judge.

        Raises:
            LlamuneError: there is none.
        """
        if judge is None:
            raise LlamuneError(
                "metric judge needs a model that judges", hint="name it: --judge REF"
            )
        return judge

    def mark(self, item: Item, answer: str) -> float:
        """Return the mark of an answer, 0 (worst) to 1.

        Raises:
            LlamuneError: the judge does not reply in the form that it was asked for.
        """
        task = TASK.format(
            rubric=self._rubric,
            question=item.question,
            reference=item.expected[0],
            answer=answer,
        )
        key = hashlib.sha256(task.encode()).hexdigest()
        mark = self._book.get(key)
        if mark is None:
            mark = self._asked(task)
            self._book.put(key, mark)
        return (int(mark) - WORST) / (BEST - WORST)

    def _asked(self, task: str) -> int:
        """Return the mark that the judge gives, 1 to 5."""
        from llamune.engine import GenerateOptions

        options = GenerateOptions(temperature=0, seed=0, max_tokens=400, json_schema=SCHEMA)
        reply = self._engine.answer([{"role": "user", "content": task}], options).text
        try:
            return int(json.loads(reply)["mark"])
        except (ValueError, KeyError, TypeError) as error:
            raise LlamuneError(
                f"the judge {self._engine.name} gave no mark: {reply[:80]!r}"
            ) from error
