"""Memory of training every weight: packed in its blocks, or over dense floats.

Packed, what is held from step to step is the weights in their blocks and what the optimizer
remembers; one layer's gradient exists at a time. `benchmarks/full.py` holds the sum against
measured peaks.
"""

from __future__ import annotations

from llamune.gguf import quant_type
from llamune.plan.settings import F32_BYTES, TYPE_BYTES, Settings
from llamune.plan.shape import Shape

__all__ = ["KEEP_TYPES", "full_parts", "layer_scratch", "trained_parameters"]

Part = tuple[str, float, str]

KEEP_TYPES = ("BF16", "Q8_0", "Q6_K")
"""types that weights can be trained in, the finest first"""

ADAM_STATES = 2  # first and second moment of each trained number
EIGHT_BIT_BYTES = 2 + 2 * F32_BYTES / 256  # two moments of 8 bits, a scale each 256 of them
SLICE_BYTES = 4 << 20  # rows are moved and packed again in slices of this size
SLICES_AT_ONCE = 20  # weight, noise, whole steps, parts, and the holes they leave: measured
TABLE_SLICE_BYTES = 64 << 20  # the vocabulary's gradient is made in slices of this size


def trained_parameters(shape: Shape, settings: Settings) -> int:
    """Return how many weights of matrices are trained."""
    return block_parameters(shape) + (table_parameters(shape) if settings.train_embeddings else 0)


def block_parameters(shape: Shape) -> int:
    """Return how many weights the blocks' matrices have."""
    return shape.n_layer * sum(linear.n_elements for linear in shape.linears)


def table_parameters(shape: Shape) -> int:
    """Return how many weights token embedding and output have."""
    return shape.n_vocab * shape.d_model * (1 if shape.tied else 2)


def full_parts(shape: Shape, settings: Settings) -> list[Part]:
    """Return weights, gradients and optimizer: key, bytes, and how they come about."""
    return dense_parts(shape, settings) if settings.dense else packed_parts(shape, settings)


def packed_parts(shape: Shape, settings: Settings) -> list[Part]:
    """Return what packed training holds from step to step."""
    kind = quant_type(settings.keep_type)
    width = kind.block_bytes / kind.block_size
    n = trained_parameters(shape, settings)
    formula = f"{n:,} weights × {width:g} bytes ({kind})"
    nbytes = n * width
    if not settings.train_embeddings:
        tables = shape.embedding_bytes + shape.output_bytes
        nbytes += tables
        formula += f" + token embedding and output as stored {tables:,} bytes"
    return [("weights", nbytes, formula), optimizer_state(shape, settings)]


def optimizer_state(shape: Shape, settings: Settings) -> Part:
    """Return what a packed optimizer remembers."""
    if settings.optimizer == "adamw8":
        n = trained_parameters(shape, settings)
        formula = f"{n:,} weights × {EIGHT_BIT_BYTES:g} bytes (two moments of 8 bits)"
        return "optimizer", n * EIGHT_BIT_BYTES, formula
    edges = shape.n_layer * sum(linear.rows + linear.columns for linear in shape.linears)
    if settings.train_embeddings:
        edges += table_parameters(shape) // shape.d_model
    return "optimizer", edges * F32_BYTES, f"{edges:,} rows and columns × 4 bytes (factored)"


def dense_parts(shape: Shape, settings: Settings) -> list[Part]:
    """Return what dense training holds from step to step."""
    width = TYPE_BYTES[settings.weight_type]
    n = trained_parameters(shape, settings)
    held = block_parameters(shape) + table_parameters(shape)
    states = ADAM_STATES * F32_BYTES
    return [
        ("weights", held * width, f"{held:,} weights × {width} bytes ({settings.weight_type})"),
        ("gradients", n * width, f"{n:,} × {width} bytes"),
        ("optimizer", n * states, f"{n:,} × 2 moments × 4 bytes (AdamW)"),
    ]


def layer_scratch(shape: Shape, settings: Settings) -> tuple[float, str]:
    """Return what one layer's update takes for a moment, beside its unpacked weight."""
    if settings.dense:
        return 0.0, ""
    width = F32_BYTES
    if settings.compute_type != "float32":  # made in the compute type, then widened
        width += TYPE_BYTES[settings.compute_type]
    gradient = shape.largest_linear * width
    slices = SLICES_AT_ONCE * min(SLICE_BYTES, shape.largest_linear * F32_BYTES)
    formula = f"its gradient {gradient:,} + slices that are packed again {slices:,}"
    if settings.train_embeddings:
        slices += 2 * TABLE_SLICE_BYTES
        formula += f" + slices of the vocabulary {2 * TABLE_SLICE_BYTES:,}"
    return gradient + slices, formula
