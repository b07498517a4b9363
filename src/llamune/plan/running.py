"""How much memory a loaded model takes in llama.cpp: weights, key/value cache, compute buffer."""

from __future__ import annotations

from llamune.plan.memory import MemoryPlan, Part
from llamune.plan.shape import Shape

__all__ = ["CACHE_TYPES", "cache_bytes", "compute_bytes", "running_memory"]

CACHE_TYPES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q5_0": 22 / 32, "q4_0": 18 / 32}
CELLS_TOGETHER = 256  # llama.cpp rounds a sequence's cells up to this
MICRO_BATCH = 512  # llama.cpp's default: tokens of a prompt that go through at once
STATES_AT_OUTPUT = 5.5  # hidden states live at the end of the graph; measured 5 to 6
STATES_IN_BLOCK = 7.0  # beside gate and up
SERVER_BYTES = 60 << 20  # the program around the model


def running_memory(
    shape: Shape,
    *,
    context: int = 4096,
    n_parallel: int = 1,
    cache_type: str = "f16",
    adapter_bytes: int = 0,
    place: str = "RAM",
) -> MemoryPlan:
    """Return what a loaded model takes.

    Args:
        shape: the model.
        context: tokens of each conversation.
        n_parallel: conversations at once.
        cache_type: number type of the key/value cache, a key of `CACHE_TYPES`.
        adapter_bytes: adapters kept beside the weights.
        place: where it lives.
    """
    cache, cache_formula = cache_bytes(
        shape, context=context, n_parallel=n_parallel, cache_type=cache_type
    )
    compute, compute_formula = compute_bytes(shape, context=context * n_parallel)
    parts = [
        ("weights", shape.file_bytes, f"the file, mapped: {shape.file_bytes:,} bytes"),
        ("cache", cache, cache_formula),
        ("compute", compute, compute_formula),
        ("adapter", adapter_bytes, f"{adapter_bytes:,} bytes of adapters"),
        ("program", SERVER_BYTES, "measured: llama.cpp without a model"),
    ]
    return MemoryPlan(
        parts=tuple(
            Part(key=key, nbytes=nbytes, place=place, formula=formula)
            for key, nbytes, formula in parts
            if nbytes
        )
    )


def cache_bytes(
    shape: Shape, *, context: int, n_parallel: int = 1, cache_type: str = "f16"
) -> tuple[int, str]:
    """Return the bytes of the key/value cache, and how they come about.

    Source: llama.cpp's `llama_kv_cache` and `llama_kv_cache_iswa`: cells a sequence are rounded
        up to 256; layers with a window keep the window and one micro-batch.
    """
    per_cell = 2 * shape.d_key * CACHE_TYPES[cache_type]
    cells = rounded(context) * n_parallel
    n_full = shape.n_layer - shape.n_window_layers
    total = n_full * cells * per_cell
    formula = (
        f"{n_full} layers × {cells:,} cells × 2 × {shape.n_head_kv} heads × {shape.head_dim} "
        f"× {CACHE_TYPES[cache_type]:g} bytes"
    )
    if shape.n_window_layers and shape.sliding_window:
        window = min(cells, rounded(shape.sliding_window * n_parallel + MICRO_BATCH))
        total += shape.n_window_layers * window * per_cell
        formula += f" + {shape.n_window_layers} layers × {window:,} cells"
    return int(total), formula


def compute_bytes(shape: Shape, *, context: int, micro_batch: int = MICRO_BATCH) -> tuple[int, str]:
    """Return the bytes of llama.cpp's compute buffer with flash attention, and how they come about.

    Source: the buffers that llama.cpp reports (`benchmarks/plan.py` holds this against them): a
        few hidden states stand beside the logits at the output matrix, or beside gate and up in a
        block, whichever is more; and the attention masks in f16, one more where layers have a
        window.
    """
    widest, states = max(
        (shape.n_vocab, STATES_AT_OUTPUT),
        (2 * shape.d_ff, STATES_IN_BLOCK),
        key=lambda moment: moment[0] + moment[1] * shape.d_model,
    )
    cells = rounded(context)
    if shape.n_window_layers and shape.sliding_window:
        cells += min(cells, rounded(shape.sliding_window + MICRO_BATCH))
    masks = 2 * micro_batch * cells
    total = 4 * micro_batch * (widest + states * shape.d_model) + masks
    formula = (
        f"{micro_batch} tokens × 4 bytes × ({widest:,} + {states:g} × {shape.d_model:,}) "
        f"+ masks {masks:,} bytes"
    )
    return int(total), formula


def rounded(cells: int) -> int:
    """Return a number of cells rounded up as llama.cpp does."""
    return -(-cells // CELLS_TOGETHER) * CELLS_TOGETHER
