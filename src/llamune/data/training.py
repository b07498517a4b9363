"""Records made ready for the trainer, and the fingerprint that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamune.data.answers import Template
from llamune.data.cache import cache_key, cached, keep
from llamune.data.errors import DataError
from llamune.data.fingerprints import fingerprint
from llamune.data.records import Record
from llamune.data.rendering import Rendered, Tokens, render
from llamune.errors import LlamuneError

__all__ = ["LONGEST_DEFAULT", "TrainingData", "prepare"]

LONGEST_DEFAULT = 2048
"""Tokens: the most that the default maximum length grows to."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Rendered records, and what became of those that are not among them.

    Attributes:
        rendered: the records to train on, in order; weights are already applied.
        fingerprint: what names them, see `fingerprint`.
        max_length: tokens; none of them is longer.
        n_records: records that were given.
        n_cut: records that lost their end to the maximum length.
        n_untrained: records left out because no token of theirs is trained once cut.
    """

    rendered: tuple[Rendered, ...]
    fingerprint: str
    max_length: int
    n_records: int
    n_cut: int
    n_untrained: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each record."""
        return [len(record.ids) for record in self.rendered]

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return sum(self.lengths)

    @property
    def n_trained(self) -> int:
        """Tokens that the loss asks for."""
        return sum(record.n_trained for record in self.rendered)


def prepare(
    records: Iterable[Record],
    template: Template,
    tokenizer: Tokens,
    *,
    max_length: int | None = None,
    context_length: int | None = None,
    train_on: str = "answers",
    seed: int = 0,
    chosen: bool = False,
    cache: Path | None = None,
) -> TrainingData:
    """Render records for training.

    Args:
        records: what to train on.
        template: the model's chat template.
        tokenizer: the model's tokenizer.
        max_length: tokens; default the longest record, at most `LONGEST_DEFAULT` and the context.
        context_length: the tokens that the model was made for.
        train_on: `answers`, the `last` answer, or `all` tokens.
        seed: picks the records of a file whose weight is no whole number.
        chosen: whether preference pairs may be trained on by their better answer.
        cache: folder where rendered records are kept from one time to the next.

    Raises:
        DataError: a record cannot be rendered or is not made for this; the message says which.
    """
    given = list(records)
    for record in given:
        refuse_judged(record, chosen=chosen)
    whole = render_all(given, template, tokenizer, train_on=train_on, cache=cache)
    longest = max((len(record.ids) for record in whole), default=0)
    limit = max_length or min(longest, LONGEST_DEFAULT)
    limit = min(limit, context_length or limit)
    kept: list[Rendered] = []
    n_cut = n_untrained = 0
    for record, ready in zip(given, whole, strict=True):
        pieces = pieces_of(ready, limit) if record.text is not None else [cut_to(ready, limit)]
        n_cut += any(piece.cut for piece in pieces)
        # the first token of a piece has nothing to be told from
        useful = [piece for piece in pieces if any(piece.trained[1:])]
        n_untrained += not useful
        kept += useful * copies(record, seed)
    return TrainingData(
        rendered=tuple(kept),
        fingerprint=fingerprint(kept),
        max_length=limit,
        n_records=len(given),
        n_cut=n_cut,
        n_untrained=n_untrained,
    )


def refuse_judged(record: Record, *, chosen: bool) -> None:
    """Refuse what a training on answers would take for something else.

    Raises:
        DataError: a preference pair that was not asked for, or an answer judged bad.
    """
    path, line = record.source.path, record.source.line
    if record.rejected and not chosen:
        raise DataError(
            f"record {record.source.number} is a preference pair",
            path=path,
            line=line,
            hint="`--chosen` trains on the better answer of each",
        )
    if record.label is False:
        raise DataError(
            f"record {record.source.number} holds an answer that is labelled bad",
            path=path,
            line=line,
            hint="leave such records out: this training learns every answer it is given",
        )


def render_all(
    records: Sequence[Record],
    template: Template,
    tokenizer: Tokens,
    *,
    train_on: str,
    cache: Path | None,
) -> list[Rendered]:
    """Render records up to their last trained token, or take them from the cache."""
    key = cache_key(records, template, tokenizer, train_on) if cache is not None else ""
    if cache is not None and (kept := cached(cache, key)) is not None:
        return kept
    whole = [
        without_tail(rendered_or_named(record, template, tokenizer, train_on)) for record in records
    ]
    if cache is not None:
        keep(cache, key, whole, fingerprint(whole))
    return whole


def rendered_or_named(
    record: Record, template: Template, tokenizer: Tokens, train_on: str
) -> Rendered:
    """Render a record whole; an error names the record.

    Raises:
        DataError: it cannot be rendered.
    """
    try:
        return render(record, template, tokenizer, train_on=train_on)
    except LlamuneError as error:
        number = record.source.number
        message = f"record {number}: {error.message}"
        raise DataError(
            message, path=record.source.path, line=record.source.line, hint=error.hint
        ) from error


def without_tail(ready: Rendered) -> Rendered:
    """Return a record up to its last trained token: what comes after it teaches nothing."""
    n_kept = len(ready.trained)
    while n_kept and not ready.trained[n_kept - 1]:
        n_kept -= 1
    return Rendered(ready.ids[:n_kept], ready.trained[:n_kept], ready.cut, n_kept)


def cut_to(ready: Rendered, limit: int) -> Rendered:
    """Return a record without the tokens beyond `limit`."""
    if len(ready.ids) <= limit:
        return ready
    return Rendered(ready.ids[:limit], ready.trained[:limit], True, ready.n_whole)


def pieces_of(ready: Rendered, limit: int) -> list[Rendered]:
    """Return plain text in pieces of at most `limit` tokens: nothing of it is left out."""
    if len(ready.ids) <= limit:
        return [ready]
    starts = range(0, len(ready.ids), limit)
    return [
        Rendered(ready.ids[at : at + limit], ready.trained[at : at + limit], False, ready.n_whole)
        for at in starts
    ]


def copies(record: Record, seed: int) -> int:
    """Return how often an epoch holds a record; the part below 1 is drawn by seed and place."""
    n_whole = int(record.weight)
    share = record.weight - n_whole
    if not share:
        return n_whole
    name = f"{seed}\0{record.source.path}\0{record.source.number}".encode()
    draw = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64
    return n_whole + (draw < share)
