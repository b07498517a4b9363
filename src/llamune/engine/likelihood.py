"""How likely a given text is, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamune.engine.logits import AdapterFile, NativeModel
from llamune.engine.options import TokenLogProbability

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["token_log_probabilities"]


def token_log_probabilities(
    model: NativeModel,
    ids: Sequence[int],
    *,
    n_alternatives: int = 0,
    adapters: Sequence[AdapterFile] | None = None,
    n_threads: int | None = None,
) -> list[TokenLogProbability]:
    """Return each token's log-probability given the ones before it.

    Args:
        model: the open model.
        ids: token ids.
        n_alternatives: how many of the likeliest tokens to report beside each.
        adapters: which of the loaded adapters act, and how strongly; default all.
        n_threads: CPU threads; default the idle cores.

    Returns:
        one entry a token, in nats; the first is NaN, for nothing stands before it.

    Raises:
        EngineError: no tokens, an id outside the vocabulary, or llama.cpp fails.
    """
    texts = [spelled(model, token) for token in ids]
    found = [TokenLogProbability(token=texts[0], log_probability=math.nan)] if ids else []
    position = 1
    for logits in model.logit_chunks(ids, adapters=adapters, n_threads=n_threads):
        for row in log_softmax(logits)[: len(ids) - position]:
            found.append(
                TokenLogProbability(
                    token=texts[position],
                    log_probability=float(row[ids[position]]),
                    alternatives=likeliest(model, row, n_alternatives),
                )
            )
            position += 1
    return found


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the log-probabilities (n, n_vocab) of logits (n, n_vocab)."""
    import numpy as np

    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def likeliest(
    model: NativeModel, row: npt.NDArray[np.float64], n: int
) -> tuple[tuple[str, float], ...]:
    """Return the texts and log-probabilities of the `n` likeliest tokens, the likeliest first."""
    import numpy as np

    if n == 0:
        return ()
    top = np.argpartition(row, -n)[-n:]
    ordered = top[np.argsort(-row[top])]
    return tuple((spelled(model, int(token)), float(row[token])) for token in ordered)


def spelled(model: NativeModel, token: int) -> str:
    """Return the text of one token; a token that is part of a character shows as U+FFFD."""
    return model.token_bytes(token).decode(errors="replace")
