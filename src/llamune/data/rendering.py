"""A record to token ids and an exact mask of what is trained.

Where each answer stands in the text comes from `answers`; here the text becomes token ids, as
the engine will encode it, and every token gets its place in the text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llamune.data.answers import Answer, Template, answers_in
from llamune.data.errors import DataError
from llamune.data.records import Record

__all__ = ["TRAIN_ON", "Rendered", "Tokens", "render"]

TRAIN_ON = ("answers", "last", "all")


class Tokens(Protocol):
    """What rendering asks of a tokenizer; `llamune.text.Tokenizer` is one."""

    @property
    def bos_id(self) -> int | None: ...  # noqa: D102
    @property
    def eos_id(self) -> int | None: ...  # noqa: D102
    @property
    def adds_bos(self) -> bool: ...  # noqa: D102
    @property
    def stop_ids(self) -> frozenset[int]: ...  # noqa: D102
    @property
    def control_ids(self) -> frozenset[int]: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    def encode(self, text: str, *, parse_special: bool = ...) -> list[int]: ...  # noqa: D102
    def token_bytes(self, token_id: int) -> bytes: ...  # noqa: D102
    def piece(self, token_id: int) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Rendered:
    """A record as the trainer sees it.

    Attributes:
        ids: token ids.
        trained: for each token, whether the loss asks for it.
        cut: whether tokens beyond the maximum length were left out.
        n_whole: tokens before cutting.
    """

    ids: list[int]
    trained: list[bool]
    cut: bool
    n_whole: int

    @property
    def n_trained(self) -> int:
        """Tokens that the loss asks for."""
        return sum(self.trained)


def render(
    record: Record,
    template: Template,
    tokenizer: Tokens,
    *,
    max_length: int | None = None,
    train_on: str = "answers",
) -> Rendered:
    """Render a record through the model's own template and mask what is not trained.

    Args:
        record: a conversation or plain text.
        template: the model's chat template.
        tokenizer: the model's tokenizer.
        max_length: tokens to keep; None keeps all.
        train_on: `answers`, the `last` answer, or `all` tokens.

    Raises:
        DataError: the template leaves out an answer, or the token ids do not spell the text.
        LlamuneError: the template refuses the record.
    """
    if train_on not in TRAIN_ON:
        raise DataError(f"train on {train_on!r}: one of {', '.join(TRAIN_ON)}")
    if record.text is not None:
        ids = tokenizer.encode(record.text, parse_special=False)
        ids = [*beginning(ids, tokenizer), *ids]
        if tokenizer.eos_id is not None:
            ids.append(tokenizer.eos_id)
        return shortened(ids, [True] * len(ids), max_length)
    messages = [message.for_template() for message in record.messages]
    tools = [dict(tool) for tool in record.tools] or None
    whole = template.render(messages, tools=tools)
    ids = tokenizer.encode(whole, parse_special=True)
    head = beginning(ids, tokenizer)
    if train_on == "all":
        return shortened([*head, *ids], [True] * (len(head) + len(ids)), max_length)
    trained = [False] * len(ids)
    places = [0, *token_ends(ids, whole, tokenizer)]
    for answer in answers_in(record, whole, template, last_only=train_on == "last"):
        first, stop = tokens_of(answer, ids, places, tokenizer)
        trained[first:stop] = [True] * (stop - first)
        if answer.is_last and ids[stop - 1] not in tokenizer.stop_ids:
            ids, trained = with_end(ids[:stop], trained[:stop], tokenizer)
    return shortened([*head, *ids], [False] * len(head) + trained, max_length)


def beginning(ids: Sequence[int], tokenizer: Tokens) -> list[int]:
    """Return the BOS token where the file asks for one and the text has none."""
    bos = tokenizer.bos_id
    if not tokenizer.adds_bos or bos is None or ids[:1] == [bos]:
        return []
    return [bos]


def token_ends(ids: Sequence[int], text: str, tokenizer: Tokens) -> list[int]:
    """Return where each token ends in `text`, in UTF-8 bytes.

    Raises:
        DataError: the tokens do not spell the text.
    """
    spelled = text.encode()
    ends: list[int] = []
    at = 0
    for token in ids:
        piece = tokenizer.token_bytes(token)
        if token in tokenizer.control_ids:
            piece = tokenizer.piece(token).encode()
        if not spelled.startswith(piece, at) and piece.startswith(b" "):
            piece = piece[1:]  # SentencePiece puts a blank before the first word
        if not spelled.startswith(piece, at):
            raise DataError(
                f"the tokens do not spell the text: at byte {at} expected {piece!r}, "
                f"found {spelled[at : at + 12]!r}"
            )
        at += len(piece)
        ends.append(at)
    if at != len(spelled):
        raise DataError(f"the tokens spell {at} bytes of a text of {len(spelled)}")
    return ends


def tokens_of(
    answer: Answer, ids: Sequence[int], places: Sequence[int], tokenizer: Tokens
) -> tuple[int, int]:
    """Return the first token that the model writes of an answer, and the one after the last.

    A token that begins before the answer is never one the model can choose there, so it is
    not among them. The end-of-turn token is, and what the template puts before it.

    Args:
        answer: where the answer stands, in UTF-8 bytes.
        ids: the token ids of the text.
        places: where each token begins, and where the last ends, in UTF-8 bytes.
        tokenizer: the model's tokenizer.

    Raises:
        DataError: it cannot be told where the answer ends.
    """
    first = bisect_left(places, answer.start, hi=len(ids))
    after = max(first, bisect_left(places, answer.said, hi=len(ids)))
    if after > first and ids[after - 1] in tokenizer.stop_ids:
        return first, after
    for place in range(after, len(ids)):
        if places[place + 1] > answer.limit:
            break
        if ids[place] in tokenizer.stop_ids:
            return first, place + 1
    if answer.end is None:
        raise DataError(
            "the chat template does not tell where a tool call ends",
            hint="this model closes no turn: remove records with tool calls",
        )
    return first, max(after, bisect_left(places, answer.end, hi=len(ids)))


def with_end(
    ids: list[int], trained: list[bool], tokenizer: Tokens
) -> tuple[list[int], list[bool]]:
    """Return a record whose template closes no last turn, with the end-of-text token after it."""
    if tokenizer.eos_id is None:
        return ids, trained
    return [*ids, tokenizer.eos_id], [*trained, True]


def shortened(ids: list[int], trained: list[bool], max_length: int | None) -> Rendered:
    """Return the first `max_length` tokens."""
    n_whole = len(ids)
    cut = max_length is not None and n_whole > max_length
    return Rendered(ids[:max_length], trained[:max_length], cut, n_whole)
