"""Token ids and chat template: our code against llama.cpp's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamune.gguf import ModelFile
    from llamune.store import Model

__all__ = ["Conversation", "Spelled", "Spelling", "spell"]

Conversation = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How many texts two implementations turned into the same thing."""

    n_same: int
    n: int
    first_difference: str | None = None

    @property
    def all_same(self) -> bool:
        """Whether every one of them came out the same."""
        return self.n_same == self.n


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """Prompts as token ids, and how they compare with llama.cpp's own."""

    sequences: list[list[int]]
    tokens: Spelling
    template: Spelling | None


def spell(
    model: Model, file: ModelFile, conversations: Sequence[Conversation], n_threads: int | None
) -> Spelled:
    """Render and tokenize with our code and with llama.cpp's."""
    from llamune.engine import NativeModel, open_engine
    from llamune.text import template_of, tokenizer_of

    tokenizer = tokenizer_of(file)
    template = template_of(model, file, tokenizer)
    texts = [template.render(messages) for messages in conversations]
    texts += [str(m["content"]) for messages in conversations for m in messages]
    with NativeModel(model.paths, n_gpu_layers=0) as native:
        tokens = same(
            texts,
            lambda text: tokenizer.encode(text, parse_special=True),
            lambda text: native.tokenize(text, parse_special=True),
        )
    rendering = None
    if template.source == "gguf":
        asked = [without_last_answer(messages) for messages in conversations]
        with open_engine(model, n_ctx=256, n_threads=n_threads) as engine:
            rendering = same(
                asked,
                lambda messages: template.render(messages, add_generation_prompt=True),
                engine.render,
            )
    rendered = texts[: len(conversations)]
    sequences = [tokenizer.encode(text, parse_special=True) for text in rendered]
    return Spelled(sequences=sequences, tokens=tokens, template=rendering)


def same(
    inputs: Iterable[Any], ours: Callable[[Any], Any], theirs: Callable[[Any], Any]
) -> Spelling:
    """Count the inputs that two functions turn into the same thing."""
    results = [(given, ours(given) == theirs(given)) for given in inputs]
    wrong = [str(given) for given, equal in results if not equal]
    return Spelling(
        n_same=len(results) - len(wrong),
        n=len(results),
        first_difference=wrong[0] if wrong else None,
    )


def without_last_answer(messages: Conversation) -> Conversation:
    """Return a conversation as it stands when the model is asked."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages
