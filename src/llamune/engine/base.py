"""What every engine can do."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from llamune.engine.options import (
    Answer,
    Asked,
    Continuation,
    Conversation,
    Embeddings,
    GenerateOptions,
    Messages,
    Piece,
    Scales,
    TokenLogProbability,
    Tools,
)

__all__ = ["Engine", "Receive", "collect"]

Receive = Callable[[Piece], bool]
"""takes a piece of an answer; true ends the work"""


class Engine(ABC):
    """A model that answers; a context manager.

    Attributes:
        adapters: names of the adapters that can be attached, in the order of attachment.
    """

    adapters: tuple[str, ...] = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What the person called the model."""

    @abstractmethod
    def stream(self, asked: Asked) -> Iterator[Piece]:
        """Yield an answer's pieces as they come; closing the iterator stops the work.

        Raises:
            EngineError: the engine refuses the request.
            UnsupportedError: it cannot do what is asked.
        """

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one vector a text."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the model; safe to call twice."""

    def generate(
        self,
        prompt: str | Sequence[int],
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
    ) -> Iterator[Piece]:
        """Continue a text or token ids as they stand; what each means: see `Continuation`."""
        return self.stream(
            Continuation(prompt=prompt, options=options or GenerateOptions(), scales=scales)
        )

    def chat(
        self,
        messages: Messages,
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
        tools: Tools = (),
        tool_choice: str | None = None,
    ) -> Iterator[Piece]:
        """Answer a conversation; what each means: see `Conversation`."""
        return self.stream(
            Conversation(
                messages=messages,
                options=options or GenerateOptions(),
                scales=scales,
                tools=tools,
                tool_choice=tool_choice,
            )
        )

    def answer(
        self,
        messages: Messages,
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
    ) -> Answer:
        """Answer a conversation and return when the whole answer is there."""
        return collect(self.chat(messages, options, scales=scales))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def collect(pieces: Iterable[Piece]) -> Answer:
    """Put pieces together into a whole answer."""
    start = time.perf_counter()
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Mapping[str, Any]] = []
    likelihoods: list[TokenLogProbability] = []
    first: float | None = None
    last = Piece()
    for piece in pieces:
        if first is None and (piece.text or piece.thinking):
            first = time.perf_counter() - start
        texts.append(piece.text)
        thoughts.append(piece.thinking)
        calls.extend(piece.tool_calls)
        likelihoods.extend(piece.log_probabilities)
        last = piece
    return Answer(
        text="".join(texts),
        thinking="".join(thoughts),
        tool_calls=tuple(calls),
        log_probabilities=tuple(likelihoods),
        finish_reason=last.finish_reason or "stop",
        n_prompt_tokens=last.n_prompt_tokens,
        n_answer_tokens=last.n_answer_tokens,
        prompt_seconds=last.prompt_seconds,
        answer_seconds=last.answer_seconds,
        first_piece_seconds=first,
    )
