"""Whole distributions through the embedded server's JSON, where the C interface is unknown.

One request a position, and the whole vocabulary as JSON in each answer: right, and slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llamune.engine.errors import EngineError
from llamune.engine.native import extension
from llamune.engine.threads import default_threads

__all__ = ["json_logits"]


def json_logits(
    path: Path | Sequence[Path],
    sequences: Sequence[Sequence[int]],
    *,
    adapters: Sequence[Any] = (),
    n_gpu_layers: int = -1,
    n_batch: int = 512,
    kv_type: str = "f16",
    flash: bool | None = None,
    n_threads: int | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield log-probabilities for each sequence; arguments as `prompt_logits`.

    Yields:
        float32 (n_tokens, n_vocab) a sequence.

    Raises:
        EngineError: llama.cpp refuses the model, an adapter or the tokens.
    """
    if not sequences:
        return
    package = extension()
    parameters = package.CommonParams()
    parameters.model.path = str(path if isinstance(path, Path) else path[0])
    parameters.lora_adapters = [
        package.CommonAdapterLoraInfo(str(adapter.path), adapter.scale) for adapter in adapters
    ]
    parameters.n_ctx = max(map(len, sequences)) + 1
    parameters.n_parallel = 1
    parameters.n_gpu_layers = n_gpu_layers
    parameters.n_batch = parameters.n_ubatch = n_batch
    kind = getattr(package.ggml_type, f"GGML_TYPE_{kv_type.upper()}")
    parameters.cache_type_k = parameters.cache_type_v = kind
    word = {None: "AUTO", True: "ENABLED", False: "DISABLED"}[flash]
    parameters.flash_attn_type = getattr(
        package.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{word}"
    )
    threads = n_threads or default_threads()
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.port = 0
    parameters.cache_ram_mib = 0
    server = package.Server(parameters)
    for sequence in sequences:
        yield np.stack([distribution(server, sequence[: end + 1]) for end in range(len(sequence))])


def distribution(server: Any, prompt: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the log-probabilities (n_vocab,) of the token that follows a prompt."""
    answer = server.handle_completions(
        {
            "prompt": list(prompt),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": WHOLE_VOCABULARY,
            "cache_prompt": False,
        }
    )
    if "error" in answer:
        raise EngineError(f"llama.cpp: {answer['error'].get('message')}")
    found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    out = np.full(len(found), -np.inf, np.float32)
    for entry in found:
        out[entry["id"]] = entry["logprob"]
    return out


WHOLE_VOCABULARY = 1 << 24  # the server gives what there is
