"""How likely a model finds given answers: losses from llama.cpp's whole distributions, kept."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llamune.errors import LlamuneError
from llamune.evaluate.answers import AnswerBook
from llamune.evaluate.distributions import token_losses
from llamune.evaluate.items import Item

if TYPE_CHECKING:
    from llamune.engine import NativeModel
    from llamune.store import Model
    from llamune.text import ChatTemplate, Tokenizer

__all__ = ["Likelihoods"]


class Likelihoods:
    """Losses of given answers to questions, asked with the model's own template.

    The model is opened when the book lacks an answer for the first time.

    Args:
        model: the model, with its adapters.
        book: where losses are kept; those in it are not computed again.
        n_threads: CPU threads; default the idle cores.
    """

    def __init__(self, model: Model, *, book: AnswerBook, n_threads: int | None = None) -> None:
        self._model = model
        self._book = book
        self._n_threads = n_threads
        self._stack = ExitStack()
        self._opened: tuple[NativeModel, Tokenizer, ChatTemplate] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def losses(self, item: Item, answer: str) -> list[float]:
        """Return the loss of each token of an answer, nats.

        Raises:
            EngineError: llama.cpp refuses the model or the tokens.
            LlamuneError: the answer is empty.
        """
        key = digest_of_pair(item, answer)
        known = self._book.get(key)
        if known is None:
            known = self._measured(item, answer)
            self._book.put(key, known)
        return list(known)

    def _measured(self, item: Item, answer: str) -> list[float]:
        from llamune.text import prompt_ids

        native, tokenizer, template = self._open()
        prompt = prompt_ids(template, tokenizer, list(item.messages), add_generation_prompt=True)
        ids = [*prompt, *tokenizer.encode(answer, parse_special=False)]
        if len(ids) == len(prompt):
            raise LlamuneError(f"{item.where}: an empty answer has no likelihood")
        first = len(prompt) - 1  # the logits here choose the answer's first token
        kept: list[Any] = []
        start = 0
        for logits in native.logit_chunks(ids, n_threads=self._n_threads):
            rows = logits[max(0, first - start) :]
            if len(rows):
                at = start + len(logits) - len(rows)
                kept.append(token_losses(rows, ids[at : at + len(rows) + 1]))
            start += len(logits)
        return [float(loss) for loss in np.concatenate(kept)]

    def _open(self) -> tuple[NativeModel, Tokenizer, ChatTemplate]:
        from llamune.engine import AdapterFile, NativeModel
        from llamune.gguf import ModelFile
        from llamune.text import template_of, tokenizer_of

        if self._opened is None:
            model = self._model
            adapters = [AdapterFile(path=one.path, scale=one.scale) for one in model.adapters]
            file = self._stack.enter_context(ModelFile.open(model.paths))
            native = self._stack.enter_context(NativeModel(model.paths, adapters=adapters))
            tokenizer = tokenizer_of(file)
            self._opened = native, tokenizer, template_of(model, file, tokenizer)
        return self._opened


def digest_of_pair(item: Item, answer: str) -> str:
    """Return the SHA-256 of a question and an answer to it, 64 hex digits."""
    text = json.dumps([list(map(dict, item.messages)), answer], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
