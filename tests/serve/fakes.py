"""An engine that answers without a model, and a library of tiny model files."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

from llamune.adapter import DIGEST_KEY
from llamune.engine import (
    Asked,
    Conversation,
    Embeddings,
    Engine,
    EngineError,
    Piece,
    Receive,
)
from llamune.gguf import Entry, write_gguf
from llamune.store import Adapter, Model, Store, publish_adapter, publish_model

WORDS = ("one", " two", " three")


class FakeEngine(Engine):
    """Says three words; an endless one says them until nobody listens any more."""

    name = "fake"
    n_ctx = 512
    endless = False

    def __init__(self, adapters: Sequence[Adapter] = ()) -> None:
        self.adapters = tuple(adapter.digest or "" for adapter in adapters)
        self.closed = False
        self.asked: list[Asked] = []
        self.stopped = threading.Event()

    def as_model(self, model: Model) -> Self:
        return self

    def stream(self, asked: Asked) -> Generator[Piece]:
        self.asked.append(asked)
        if isinstance(asked, Conversation) and asked.messages[-1].get("content") == "too long":
            raise EngineError("the prompt is longer than the context")
        return self.say()

    def push(self, asked: Asked, receive: Receive) -> None:
        with closing(self.stream(asked)) as pieces:
            for piece in pieces:
                if receive(piece):
                    return

    def say(self) -> Generator[Piece]:
        try:
            for word in itertools.cycle(WORDS) if self.endless else WORDS:
                yield Piece(text=word)
                time.sleep(0.01)
            yield Piece(finish_reason="stop", n_prompt_tokens=5, n_answer_tokens=len(WORDS))
        finally:
            self.stopped.set()

    def embed(self, texts: Sequence[str]) -> Embeddings:
        return Embeddings(vectors=[[0.6, 0.8, 0.0] for _ in texts], n_tokens=len(texts))

    def close(self) -> None:
        self.closed = True


def tiny_gguf(folder: Path, name: str, *, kind: str = "model", base: str | None = None) -> Path:
    """Write a GGUF file without tensors; an adapter may say which base it was trained on."""
    path = folder / f"{name}.gguf"
    metadata = {
        "general.architecture": Entry.of("llama"),
        "general.type": Entry.of(kind),
        "general.name": Entry.of(name),
    }
    if base is not None:
        metadata[DIGEST_KEY] = Entry.of(base)
    write_gguf(path, metadata=metadata, tensors=[], replace=True)
    return path


def tiny_library(store: Store, folder: Path, adapters: Sequence[str] = ("a", "b")) -> Model:
    """Publish a base named `base` and one model for each adapter; returns the base."""
    folder.mkdir(parents=True, exist_ok=True)
    base = publish_model("base", tiny_gguf(folder, "base"))
    for name in adapters:
        publish_adapter(name, base, tiny_gguf(folder, name, kind="adapter"))
    return base
