"""True log-probabilities of a prompt's own tokens, which llama.cpp's server does not give.

Without them every likelihood task of an evaluation harness scores at chance, and nothing says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamune.engine import EngineError, TokenLogProbability, token_log_probabilities
from llamune.serve.errors import RequestError
from llamune.serve.service import Job
from llamune.serve.streams import in_thread

__all__ = ["Echo", "echoed"]


@dataclass(frozen=True)
class Echo:
    """A prompt as the model reads it."""

    text: str
    tokens: tuple[TokenLogProbability, ...]


async def echoed(job: Job, prompt: str | Sequence[int], *, n_alternatives: int | None) -> Echo:
    """Return a prompt's tokens, each with its log-probability given the ones before it.

    Args:
        job: the request, whose tokens are counted.
        prompt: text or token ids.
        n_alternatives: how many of the likeliest tokens to report beside each; None for the
            text alone.

    Raises:
        RequestError: 400, the engine refuses the prompt.
    """
    scorer = await job.lease.scorer()

    def read() -> Echo:
        ids = scorer.tokenize(prompt, add_special=True) if isinstance(prompt, str) else prompt
        job.usage.prompt_tokens = len(ids)
        if n_alternatives is None:
            return Echo(text=scorer.text(ids), tokens=())
        tokens = token_log_probabilities(
            scorer, ids, n_alternatives=max(1, n_alternatives), adapters=job.lease.adapter_files
        )
        return Echo(text="".join(token.token for token in tokens), tokens=tuple(tokens))

    try:
        return await in_thread(read)
    except EngineError as error:
        raise RequestError(400, error.message) from error
