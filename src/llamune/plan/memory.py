"""How much memory training takes, part by part, each with its formula.

Activations are counted from what autograd keeps for backward in the decoder layer of transformers
with LoRA beside packed linear layers (`nn`, `train`); `benchmarks/plan.py` holds the sum against
measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamune.plan.full import full_parts, layer_scratch
from llamune.plan.settings import F32_BYTES, TYPE_BYTES, Settings, lora_parameters
from llamune.plan.shape import ATTENTION, Shape

__all__ = ["MemoryPlan", "Part", "training_memory"]

# Python, torch, transformers and PEFT, measured by `benchmarks/plan.py`
PROGRAM_BYTES = {"cpu": 455 << 20, "mps": 520 << 20, "cuda": 0}
COMPILER_BYTES = 130 << 20  # what torch.compile adds to the process
LOGITS_CHUNK_BYTES = 128 << 20  # nn.loss cuts positions so that a chunk's logits stay below
OUTPUT_SLICE_BYTES = 128 << 20  # and unpacks the output matrix in slices of this size
ADAM_STATES = 2  # first and second moment of each trained number
# holes that an allocator leaves, as a share of the activations: glibc's heap many, also where the
# loss was, the pools of GPUs few
HOLES = {"cpu": 0.4, "mps": 0.1, "cuda": 0.05}
LOSS_HOLES = {"cpu": 0.2, "mps": 0.0, "cuda": 0.0}
GRADIENT_HOLES = {"cpu": 0.6, "mps": 0.0, "cuda": 0.0}  # an adapter's lie between activations


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the memory.

    Args:
        key: its name; `words/plan.toml` has its title.
        nbytes: its size.
        place: `RAM`, `GPU` or `unified`.
        formula: how it was worked out, with the numbers put in.
    """

    key: str
    nbytes: int
    place: str
    formula: str


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Predicted peak memory."""

    parts: tuple[Part, ...]
    factor: float = 1.0  # how far past runs were off, applied to the whole

    @property
    def uncorrected_bytes(self) -> int:
        """The sum of the parts."""
        return sum(part.nbytes for part in self.parts)

    @property
    def total_bytes(self) -> int:
        """The prediction."""
        return int(self.uncorrected_bytes * self.factor)


def training_memory(
    shape: Shape,
    settings: Settings,
    *,
    device: str = "cpu",
    place: str = "RAM",
    factor: float = 1.0,
) -> MemoryPlan:
    """Return the predicted peak of the training process, or of the GPU it trains on.

    Args:
        shape: the model.
        settings: the choices.
        device: `cpu`, `mps` or `cuda`.
        place: what to call where it lives.
        factor: correction from past runs.
    """
    parts = [program(device, settings), *held_parts(shape, settings)]
    parts += [activations(shape, settings), holes(shape, settings, device)]
    parts += [loss_buffers(shape, settings), scratch(shape, settings, device)]
    placed = tuple(
        Part(key=key, nbytes=int(nbytes), place=place, formula=formula)
        for key, nbytes, formula in parts
        if nbytes
    )
    return MemoryPlan(parts=placed, factor=factor)


def program(device: str, settings: Settings) -> tuple[str, float, str]:
    """Return what the process takes before the model: libraries and their tables."""
    nbytes = PROGRAM_BYTES[device]
    if device == "cpu" and settings.compiled:
        nbytes += COMPILER_BYTES
    return "program", nbytes, "measured: a process with torch, transformers and PEFT imported"


def held_parts(shape: Shape, settings: Settings) -> list[tuple[str, float, str]]:
    """Return what is held from step to step: weights, adapter, gradients and optimizer."""
    if not settings.is_adapter:
        return full_parts(shape, settings)
    nbytes = shape.file_bytes - shape.extra_bytes
    n = lora_parameters(shape, settings)
    one = n * F32_BYTES
    return [
        ("weights", nbytes, f"the file's own blocks, mapped: {nbytes:,} bytes"),
        ("adapter", one, f"{n:,} trained numbers × 4 bytes (f32)"),
        ("gradients", one, f"{n:,} × 4 bytes"),
        ("optimizer", one * ADAM_STATES, f"{n:,} × 2 moments × 4 bytes (AdamW)"),
    ]


def kept_bytes_per_token(shape: Shape, settings: Settings) -> float:
    """Return what one token of one block keeps for backward, bytes.

    Source: the operations of transformers' decoder layer and of `nn.adapted` in order; a frozen
        linear layer keeps nothing of its input, an adapted one does.
    """
    width = TYPE_BYTES[settings.compute_type]
    adapted = shape.targeted(settings.targets)
    # each keeps its input in f32, and the gate's activation is kept; compiled, both are made again
    norms = shape.n_norms * shape.d_model * (width if settings.compiled else F32_BYTES)
    attention = 2 * shape.d_query + 2 * shape.d_key  # q, k, v, and the output: o_proj's input
    mlp = (2 if settings.compiled else 3) * shape.d_ff  # gate, its activation, up
    kept = norms + inputs_kept(shape, settings) + width * (attention + mlp)
    if settings.is_adapter:
        kept += width * sum(settings.rank_of(linear) for linear in adapted)
    if settings.method == "dora":  # what its factors multiply
        kept += width * sum(linear.rows for linear in adapted)
    return kept


def inputs_kept(shape: Shape, settings: Settings) -> int:
    """Return what one token of one block keeps of the inputs of layers that are trained, bytes.

    Layers that multiply the same share it; each that drops some of it keeps which, a byte each.
    """
    layers = shape.targeted(settings.targets) if settings.is_adapter else shape.linears
    trains = {linear.name for linear in layers}
    inputs = 0
    if trains & (ATTENTION - {"o_proj"}):
        inputs += shape.d_model
    if trains & {"gate_proj", "up_proj", "gate_up_proj"}:
        inputs += shape.d_model
    if "down_proj" in trains:
        inputs += shape.d_ff
    kept = inputs * TYPE_BYTES[settings.compute_type]
    drops = settings.is_adapter and settings.dropout
    return kept + sum(linear.columns for linear in layers) if drops else kept


def activations(shape: Shape, settings: Settings) -> tuple[str, float, str]:
    """Return what forward keeps for backward."""
    per_token = kept_bytes_per_token(shape, settings)
    tokens = settings.tokens
    if not settings.recompute:
        formula = f"{tokens:,} tokens × {shape.n_layer} layers × {per_token:,.0f} bytes"
        return "activations", tokens * shape.n_layer * per_token, formula
    border = shape.d_model * TYPE_BYTES[settings.compute_type]
    formula = (
        f"{tokens:,} tokens × ({shape.n_layer} layers × {border:,} bytes kept "
        f"+ one layer × {per_token:,.0f} bytes)"
    )
    return "activations", tokens * (shape.n_layer * border + per_token), formula


def holes(shape: Shape, settings: Settings, device: str) -> tuple[str, float, str]:
    """Return what the allocator leaves unused between activations.

    None where layers are compiled, which makes few pieces that come and go.

    Source: measured peaks of the resident set (`benchmarks/plan.py`).
    """
    if settings.compiled:
        return "holes", 0, ""
    share, of_loss, of_gradients = HOLES[device], LOSS_HOLES[device], GRADIENT_HOLES[device]
    _, kept, _ = activations(shape, settings)
    _, loss, _ = loss_buffers(shape, settings)
    formula = f"{share:g} × activations, {kept:,.0f} bytes"
    if of_loss:
        formula += f" + {of_loss:g} × the loss, {loss:,} bytes"
    gradients = lora_parameters(shape, settings) * F32_BYTES if settings.is_adapter else 0
    if of_gradients and gradients:
        formula += f" + {of_gradients:g} × the gradients, {gradients:,} bytes"
    return "holes", kept * share + loss * of_loss + gradients * of_gradients, formula


def loss_buffers(shape: Shape, settings: Settings) -> tuple[str, float, str]:
    """Return what the fused loss takes: a chunk of logits, a slice of the output matrix.

    The logits' gradient is brought to the compute type beside them; an output matrix that fits
    into one slice stays unpacked meanwhile, and a dense one needs no slice.
    """
    width = TYPE_BYTES[settings.compute_type]
    trained = max(1, int(settings.tokens * settings.trained_share))
    chunk = min(trained * shape.n_vocab * F32_BYTES, LOGITS_CHUNK_BYTES)
    gradient = chunk * width // F32_BYTES if width < F32_BYTES else 0
    output = 0 if settings.dense else shape.n_vocab * shape.d_model * width
    if output <= OUTPUT_SLICE_BYTES:
        beside = gradient + output
    else:
        beside = max(gradient, OUTPUT_SLICE_BYTES)
    rows = 2 * trained * shape.d_model * width
    nbytes = chunk + beside + rows
    formula = (
        f"logits {chunk:,} + their gradient and output rows {beside:,} "
        f"+ hidden states {rows:,} bytes"
    )
    return "loss", nbytes, formula


def scratch(shape: Shape, settings: Settings, device: str) -> tuple[str, float, str]:
    """Return what one layer's backward takes for a moment: gradients and an unpacked weight."""
    width = TYPE_BYTES[settings.compute_type]
    unpacked = width
    if not (settings.compiled or device == "cpu"):  # which unpacks a few rows at a time
        unpacked += F32_BYTES * 2
    if settings.is_packed:  # in one shared piece; f32 is written there, other types by way of it
        unpacked = width if settings.compute_type == "float32" else F32_BYTES + width
    weight = shape.largest_linear * unpacked
    flowing = settings.tokens * width * (3 * shape.d_ff + 2 * shape.d_model)
    formula = f"one unpacked weight {weight:,} + gradients of one layer {flowing:,} bytes"
    if not settings.is_adapter:
        update, words = layer_scratch(shape, settings)
        flowing += int(update)
        formula += f" + {words}" if words else ""
    return "scratch", weight + flowing, formula
