"""Several models on the same prompts: answers and what they cost, one model after the other."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.errors import LlamuneError
from llamune.evaluate.ratings import Vote, Winner

if TYPE_CHECKING:
    from llamune.engine import Answer, Engine, GenerateOptions

__all__ = [
    "Contestant",
    "Judgement",
    "Pairing",
    "judged",
    "pairings",
    "prompt_digest",
    "read_prompts",
    "rounds",
]

Messages = Sequence[dict[str, Any]]

JUDGE_TASK = """\
Two assistants answered the same question. Say which answer is better: right, complete, clear, in
the language of the question. Do not prefer an answer for its place or its length.

Question:
{question}

Answer A:
{first}

Answer B:
{second}

Reply in JSON with one key, winner: "A", "B" or "tie"."""
JUDGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"winner": {"enum": ["A", "B", "tie"]}},
    "required": ["winner"],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model in a comparison, and what it said.

    Attributes:
        name: what the person called it.
        answers: one a prompt.
        size_bytes: of its files; None where it runs elsewhere.
        memory_bytes: what this process grew by while it was loaded; None where it runs elsewhere.
    """

    name: str
    answers: tuple[Answer, ...]
    size_bytes: int | None
    memory_bytes: int | None

    @property
    def tokens_per_second(self) -> float | None:
        """Speed over all answers."""
        spans = [(a.n_answer_tokens or 0, a.answer_seconds or 0.0) for a in self.answers]
        seconds = sum(span for _, span in spans)
        return sum(n for n, _ in spans) / seconds if seconds else None

    @property
    def first_piece_seconds(self) -> float | None:
        """Median time to the first piece of text."""
        found = sorted(a.first_piece_seconds for a in self.answers if a.first_piece_seconds)
        return found[len(found) // 2] if found else None

    @property
    def n_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(answer.n_answer_tokens or 0 for answer in self.answers)


def read_prompts(path: Path) -> list[Messages]:
    """Return the prompts of a file: one a line, a JSON list of texts, or records of any format.

    Raises:
        LlamuneError: the file is empty or cannot be read.
    """
    if path.suffix == ".txt":
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        prompts: list[Messages] = [user(line) for line in lines if line]
    elif (texts := list_of_texts(path)) is not None:
        prompts = [user(text) for text in texts]
    else:
        from llamune.evaluate.items import read_items

        prompts = [[dict(message) for message in item.messages] for item in read_items([path])]
    if not prompts:
        raise LlamuneError(f"{path}: no prompt in this file")
    return prompts


def user(text: str) -> list[dict[str, Any]]:
    """Return a conversation of one question."""
    return [{"role": "user", "content": text}]


def list_of_texts(path: Path) -> list[str] | None:
    """Return the texts of a JSON list of texts, None for any other file."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError):
        return None
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        return value
    return None


def prompt_digest(messages: Messages) -> str:
    """Return the SHA-256 of a prompt, 64 hex digits."""
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest()


def rounds(
    name: str,
    opening: Callable[[], Engine],
    prompts: Sequence[Messages],
    options: GenerateOptions,
    *,
    size_bytes: int | None,
    advance: Callable[[int], object] | None = None,
) -> Contestant:
    """Put every prompt to one model, one after the other, and measure.

    Args:
        name: what to call it.
        opening: opens its engine; only one model is loaded at a time.
        prompts: conversations.
        options: how to choose tokens.
        size_bytes: of its files.
        advance: called with 1 for each answer.
    """
    import psutil

    process = psutil.Process()
    before = process.memory_info().rss
    answers, peak = [], before
    with opening() as engine:
        for messages in prompts:
            answers.append(engine.answer(messages, options))
            peak = max(peak, process.memory_info().rss)
            if advance is not None:
                advance(1)
    return Contestant(
        name=name,
        answers=tuple(answers),
        size_bytes=size_bytes,
        memory_bytes=None if size_bytes is None else peak - before,
    )


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two answers to one prompt, in the order in which a voter sees them."""

    place: int
    prompt: Messages
    left: str
    right: str
    left_text: str
    right_text: str

    def vote(self, winner: Winner, *, by: str = "person") -> Vote:
        """Return the vote for a side."""
        return Vote(
            prompt=prompt_digest(self.prompt),
            left=self.left,
            right=self.right,
            winner=winner,
            by=by,
        )


def pairings(
    contestants: Sequence[Contestant], prompts: Sequence[Messages], *, seed: int = 0
) -> Iterator[Pairing]:
    """Yield every pair of differing answers, sides and order drawn by seed: a blind vote."""
    every = [
        (place, pair)
        for place in range(len(prompts))
        for pair in itertools.combinations(contestants, 2)
        if pair[0].answers[place].text.strip() != pair[1].answers[place].text.strip()
    ]
    draw = random.Random(seed)  # noqa: S311  an order, not a secret
    draw.shuffle(every)
    for place, pair in every:
        left, right = pair if draw.random() < 0.5 else pair[::-1]
        yield Pairing(
            place=place,
            prompt=prompts[place],
            left=left.name,
            right=right.name,
            left_text=left.answers[place].text,
            right_text=right.answers[place].text,
        )


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Votes of a model that judges.

    Attributes:
        votes: one a pairing; a tie where the two orders disagree.
        n_consistent: pairings where the verdict stayed with the answer when sides were swapped.
    """

    votes: tuple[Vote, ...]
    n_consistent: int


def judged(judge: Engine, pairs: Sequence[Pairing]) -> Judgement:
    """Let a model vote on each pairing, in both orders: a win counts only where both agree.

    Raises:
        LlamuneError: the judge does not reply in the form that it was asked for.
    """
    votes, n_consistent = [], 0
    for pair in pairs:
        question = str(pair.prompt[-1]["content"])
        straight = preference(judge, question, pair.left_text, pair.right_text)
        swapped = preference(judge, question, pair.right_text, pair.left_text)
        turned: dict[Winner, Winner] = {"left": "right", "right": "left", "tie": "tie"}
        agree = straight == turned[swapped]
        n_consistent += agree
        votes.append(pair.vote(straight if agree else "tie", by=judge.name))
    return Judgement(votes=tuple(votes), n_consistent=n_consistent)


def preference(judge: Engine, question: str, first: str, second: str) -> Winner:
    """Return which of two answers a model finds better: `left` is the first.

    Raises:
        LlamuneError: the judge does not reply in the form that it was asked for.
    """
    from llamune.engine import GenerateOptions

    task = JUDGE_TASK.format(question=question, first=first, second=second)
    options = GenerateOptions(temperature=0, seed=0, max_tokens=40, json_schema=JUDGE_SCHEMA)
    reply = judge.answer(user(task), options).text
    names: dict[str, Winner] = {"A": "left", "B": "right", "tie": "tie"}
    try:
        return names[json.loads(reply)["winner"]]
    except (ValueError, KeyError, TypeError) as error:
        raise LlamuneError(f"the judge {judge.name} gave no verdict: {reply[:80]!r}") from error
