"""Questions with their answers: what a test file asks, read once for every metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.errors import LlamuneError

if TYPE_CHECKING:
    from llamune.data import Record

__all__ = ["Item", "item_of", "read_items"]

CLUSTER_FIELDS = ("group", "cluster", "passage_id")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question.

    Attributes:
        messages: the conversation up to the question.
        expected: right answers, the best first.
        where: file and line.
        metric: the metric that the file names for it.
        choices: answers to choose from, where there is a choice.
        pattern: regular expression that a right answer matches.
        schema: JSON schema that a right answer fits.
        tolerance: how far a number may be off; a share of it where it ends in `%`.
        cluster: items of one cluster are not independent (questions on one passage).
        category: what kind of question it is.
        fields: everything else the file says.
    """

    messages: tuple[Mapping[str, Any], ...]
    expected: tuple[str, ...]
    where: str
    metric: str | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    schema: Mapping[str, Any] | None = None
    tolerance: str | None = None
    cluster: str | None = None
    category: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last thing that was said."""
        return str(self.messages[-1]["content"])

    @property
    def right_choice(self) -> int:
        """The number of the right choice, from 0.

        Raises:
            LlamuneError: the expected answer is none of the choices.
        """
        answer = self.expected[0]
        if answer in self.choices:
            return self.choices.index(answer)
        if answer.isdecimal() and int(answer) < len(self.choices):
            return int(answer)
        if len(answer) == 1 and 0 <= (place := ord(answer.upper()) - ord("A")) < len(self.choices):
            return place
        raise LlamuneError(f"{self.where}: the answer {answer!r} is none of the choices")

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked, 64 hex digits: answers are kept under it."""
        text = json.dumps([list(map(dict, self.messages)), self.choices], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def read_items(paths: Sequence[Path]) -> list[Item]:
    """Read a test file, in any format that `llamune data check` knows.

    Further fields of a record shape its scoring: `choices`, `pattern`, `schema`, `tolerance`,
    `metric`, `answers` (other right answers), `group` (items that belong together), `category`.

    Raises:
        LlamuneError: a file cannot be read, or a record has no question and answer.
    """
    from llamune.data import read_records

    records = read_records(paths)
    if records.problems:
        first = records.problems[0]
        raise LlamuneError(
            f"{first}" + (f" (and {n - 1} more)" if (n := len(records.problems)) > 1 else ""),
            hint="llamune data check shows every fault",
        )
    return [item_of(record) for record in records.records]


def item_of(record: Record) -> Item:
    """Return a record as a question.

    Raises:
        LlamuneError: it has no question, or a field that shapes the scoring is of another kind.
    """
    where = str(record.source)
    if record.text is not None or record.last_answer == 0:
        raise LlamuneError(f"{where}: plain text has no question; a test needs one and an answer")
    extra = dict(record.extra)
    others = texts(extra.pop("answers", ()), where, "answers")
    schema = extra.pop("schema", None)
    if isinstance(schema, str):
        schema = json.loads(schema)
    cluster = next((str(extra[name]) for name in CLUSTER_FIELDS if name in extra), None)
    return Item(
        messages=tuple(turn.for_template() for turn in record.messages[: record.last_answer]),
        expected=(record.answer, *others),
        where=where,
        metric=text_or_none(extra.pop("metric", None)),
        choices=tuple(texts(extra.pop("choices", ()), where, "choices")),
        pattern=text_or_none(extra.pop("pattern", None)),
        schema=schema,
        tolerance=text_or_none(extra.pop("tolerance", None)),
        cluster=cluster,
        category=text_or_none(extra.pop("category", None)),
        fields=extra,
    )


def text_or_none(value: object) -> str | None:
    """Return a field as text, None where it is absent."""
    return None if value is None else str(value)


def texts(value: object, where: str, name: str) -> list[str]:
    """Return a field that is a list of texts.

    Raises:
        LlamuneError: it is something else.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise LlamuneError(f"{where}: {name} is a list of texts")
    return [str(entry) for entry in value]
