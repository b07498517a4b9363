"""What others predict for the same cases: accelerate's code, and gguf-parser's rules."""

from __future__ import annotations

from pathlib import Path

from llamune.arch import describe
from llamune.gguf import ModelFile
from llamune.plan import Shape

__all__ = ["accelerate_bytes", "gguf_parser_compute_bytes"]

GGUF_PARSER_PADDING = 256  # cells, with flash attention


def accelerate_bytes(path: Path) -> int:
    """Return what `accelerate estimate-memory` says of training with Adam in f32, batch size 1.

    By its own functions, on the model that the file describes: it knows no rank, no length, no
    quantized base.
    """
    import transformers
    from accelerate import init_empty_weights
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes

    with ModelFile.open(path, mapped=False) as file:
        family = describe(file)
    config = getattr(transformers, family.config_class)(**family.config)
    with init_empty_weights():
        model = getattr(transformers, family.model_class)(config)
    total, _largest = calculate_maximum_sizes(model)
    return int(max(estimate_training_usage(total, "float32").values()))


def gguf_parser_compute_bytes(shape: Shape, *, context: int, micro_batch: int = 512) -> int:
    """Return gguf-parser's compute memory of a model on the CPU, cache in f16.

    Source: gpustack/gguf-parser-go, `file_estimate__llamacpp.go` at 02c89bf7: inputs, one
        layer's keys and values, and the last norm and logits of a micro-batch; without what it
        adds for the program around it.
    """
    cells = -(-context // GGUF_PARSER_PADDING) * GGUF_PARSER_PADDING
    tokens = min(context, micro_batch)
    inputs = 4 * tokens * (3 + shape.d_model + cells)  # ids, positions, outputs; rows; mask
    one_layer = 2 * 2 * shape.d_key * cells
    output = 4 * tokens * (shape.d_model + shape.n_vocab)
    return inputs + one_layer + output
