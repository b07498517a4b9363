"""How much memory a model will take once it answers, from its header and the server's settings."""

from __future__ import annotations

import logging

from llamune.arch import describe
from llamune.errors import LlamuneError
from llamune.gguf import ModelFile
from llamune.plan import running_memory, shape_of
from llamune.store import Model

__all__ = ["memory_needed"]

MEMORY_OVER_FILE = 1.3  # weights, cache and buffers, for a family that the plan does not know
N_CTX = 4096  # what an engine opens with where nobody says

logger = logging.getLogger(__name__)


def memory_needed(model: Model, *, n_ctx: int | None, n_parallel: int) -> int:
    """Return how many bytes a model is expected to take when it runs.

    Args:
        model: the model; its adapters count too.
        n_ctx: tokens of context a request may use; default the model's own.
        n_parallel: requests that are worked on at the same time.

    Raises:
        LlamuneError: the model's own `num_ctx` is not a number of tokens.
    """
    context = n_ctx or context_of(model)
    adapter_bytes = sum(adapter.path.stat().st_size for adapter in model.adapters)
    try:
        with ModelFile.open(model.paths) as file:
            shape = shape_of(file, describe(file))
    except LlamuneError as error:  # llama.cpp knows families that we neither train nor plan
        logger.info("%s: no plan (%s), its size is taken instead", model, error.message)
        return int(model.size * MEMORY_OVER_FILE) + adapter_bytes
    plan = running_memory(
        shape,
        context=context,
        n_parallel=n_parallel,
        adapter_bytes=adapter_bytes,
    )
    return plan.total_bytes


def context_of(model: Model) -> int:
    """Return the tokens of context that a model asks for itself.

    Raises:
        LlamuneError: its parameter is not a number of tokens.
    """
    wanted = model.parameters.get("num_ctx", N_CTX)
    if not isinstance(wanted, int) or wanted < 1:
        raise LlamuneError(f"{model}: num_ctx is {wanted!r}, not a number of tokens")
    return wanted
