"""How much memory training takes, part by part, each with its formula.

Activations are counted from what autograd keeps for backward in the decoder layer of transformers
with LoRA beside packed linear layers (`nn`, `train`); `benchmarks/plan.py` holds the sum against
measured peaks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from llamune.plan.shape import ATTENTION, Linear, Shape

__all__ = ["MemoryPlan", "Part", "Settings", "lora_parameters", "training_memory"]

TYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
F32 = 4
# Python, torch, transformers and PEFT, which unpacks weights for a moment while it attaches
PROGRAM_BYTES = {"cpu": 700 << 20, "mps": 700 << 20, "cuda": 0}
COMPILER_BYTES = 90 << 20  # what torch.compile adds to the process
LOGITS_CHUNK_BYTES = 128 << 20  # nn.loss cuts positions so that a chunk's logits stay below
OUTPUT_SLICE_BYTES = 128 << 20  # and unpacks the output matrix in slices of this size
Q8_0_BYTES = 34 / 32  # of a weight in the blocks that training every weight uses
FACTORED_BYTES = 0.01  # of a weight, for the factored optimizer
ADAM_STATES = 2  # first and second moment of each trained number
# holes that an allocator leaves between what is kept: glibc's heap many, CUDA's pool few
FRAGMENTATION = {"cpu": 1.6, "mps": 1.1, "cuda": 1.05}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The choices that memory and time depend on.

    Args:
        method: `lora`, `dora`, `full` (AdamW over dense f32 weights) or `full-packed` (weights
            trained in their own blocks).
        rank: columns of the thin matrices.
        ranks: rank of single kinds of layer.
        targets: which layers get an adapter.
        micro_batch: sequences that go through the model at once.
        length: tokens of the longest.
        trained_share: share of tokens that the loss counts.
        recompute: whether activations are recomputed in backward.
        dropout: whether the adapter's inputs are dropped at random.
        compute_type: `float32`, `bfloat16` or `float16`.
        compiled: whether unpacking is compiled.
    """

    method: str = "lora"
    rank: int = 16
    ranks: Mapping[str, int] = field(default_factory=dict)
    targets: str | Collection[str] = "all"
    micro_batch: int = 4
    length: int = 512
    trained_share: float = 1.0
    recompute: bool = False
    dropout: bool = False
    compute_type: str = "float32"
    compiled: bool = True

    @property
    def tokens(self) -> int:
        """Tokens that go through the model at once."""
        return self.micro_batch * self.length

    @property
    def is_adapter(self) -> bool:
        """Whether thin matrices are trained, not the weights themselves."""
        return self.method in {"lora", "dora"}

    @property
    def passes(self) -> str:
        """The key of `shape.PASSES`."""
        return ("lora" if self.is_adapter else "full") + ("+recompute" if self.recompute else "")

    def rank_of(self, linear: Linear) -> int:
        """Return the rank of a kind of layer."""
        return self.ranks.get(linear.name, self.rank)


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


def lora_parameters(shape: Shape, settings: Settings) -> int:
    """Return how many numbers an adapter trains."""
    per_block = sum(
        settings.rank_of(linear) * (linear.rows + linear.columns)
        + (linear.rows if settings.method == "dora" else 0)
        for linear in shape.targeted(settings.targets)
    )
    return shape.n_layer * per_block


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
    parts = [program(device, settings), weights(shape, settings)]
    parts += trained_numbers(shape, settings)
    parts += [activations(shape, settings, FRAGMENTATION[device]), loss_buffers(shape, settings)]
    parts += [scratch(shape, settings)]
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


def weights(shape: Shape, settings: Settings) -> tuple[str, float, str]:
    """Return the base's weights as they are held."""
    if settings.method == "full":
        return (
            "weights",
            shape.n_parameters * F32,
            f"{shape.n_parameters:,} weights × 4 bytes (f32)",
        )
    if settings.method == "full-packed":
        nbytes = int(shape.n_parameters * Q8_0_BYTES)
        return "weights", nbytes, f"{shape.n_parameters:,} weights × {Q8_0_BYTES} bytes (Q8_0)"
    nbytes = shape.file_bytes - shape.extra_bytes
    return "weights", nbytes, f"the file's own blocks, mapped: {nbytes:,} bytes"


def trained_numbers(shape: Shape, settings: Settings) -> list[tuple[str, float, str]]:
    """Return adapter, gradients and optimizer."""
    if settings.method == "full-packed":
        # gradients live a layer at a time; the factored optimizer keeps a row and a column of
        # moments a matrix
        states = FACTORED_BYTES * shape.n_parameters
        formula = f"{shape.n_parameters:,} weights × {FACTORED_BYTES} bytes (factored)"
        return [("optimizer", states, formula)]
    n = lora_parameters(shape, settings) if settings.is_adapter else shape.n_parameters
    parts: list[tuple[str, float, str]] = []
    if settings.is_adapter:
        parts.append(("adapter", n * F32, f"{n:,} trained numbers × 4 bytes (f32)"))
    parts.append(("gradients", n * F32, f"{n:,} × 4 bytes"))
    parts.append(("optimizer", n * F32 * ADAM_STATES, f"{n:,} × 2 moments × 4 bytes (AdamW)"))
    return parts


def kept_bytes_per_token(shape: Shape, settings: Settings) -> float:
    """Return what one token of one block keeps for backward, bytes.

    Source: the operations of transformers' decoder layer and PEFT's LoRA layer in order; a
        frozen linear layer keeps nothing of its input, an adapted one does.
    """
    width = TYPE_BYTES[settings.compute_type]
    adapted = {linear.name: linear for linear in shape.targeted(settings.targets)}
    trains = set(adapted) if settings.is_adapter else {linear.name for linear in shape.linears}
    norms = shape.n_norms * shape.d_model * F32  # each keeps its input in f32
    inputs = 0  # what thin matrices (or trained weights) multiply
    if trains & (ATTENTION - {"o_proj"}):
        inputs += shape.d_model
    if trains & {"gate_proj", "up_proj", "gate_up_proj"}:
        inputs += shape.d_model
    if "down_proj" in trains:
        inputs += shape.d_ff
    attention = 2 * shape.d_query + 2 * shape.d_key  # q, k, v, and the output: o_proj's input
    mlp = 3 * shape.d_ff  # gate, its activation, up
    thin = (
        sum(settings.rank_of(linear) for linear in adapted.values()) if settings.is_adapter else 0
    )
    kept = norms + width * (inputs + attention + mlp) + F32 * thin
    if settings.is_adapter and settings.dropout:  # each layer drops its own copy, and its mask
        kept += sum(linear.columns * (width + 1) for linear in adapted.values())
    if settings.method == "dora":  # the layer's plain output and the scaled sum
        kept += sum(2 * width * linear.rows for linear in adapted.values())
    return kept


def activations(shape: Shape, settings: Settings, holes: float) -> tuple[str, float, str]:
    """Return what forward keeps for backward, with the holes that the allocator leaves."""
    per_token = kept_bytes_per_token(shape, settings)
    width = TYPE_BYTES[settings.compute_type]
    tokens = settings.tokens
    if settings.recompute:
        border = shape.d_model * width
        nbytes = tokens * (shape.n_layer * border + per_token)
        formula = (
            f"{tokens:,} tokens × ({shape.n_layer} layers × {border:,} bytes kept "
            f"+ one layer × {per_token:,.0f} bytes)"
        )
    else:
        nbytes = tokens * shape.n_layer * per_token
        formula = f"{tokens:,} tokens × {shape.n_layer} layers × {per_token:,.0f} bytes"
    return "activations", nbytes * holes, f"{formula} × {holes:g} for holes between them"


def loss_buffers(shape: Shape, settings: Settings) -> tuple[str, float, str]:
    """Return what the fused loss takes: a chunk of logits, a slice of the output matrix."""
    width = TYPE_BYTES[settings.compute_type]
    trained = max(1, int(settings.tokens * settings.trained_share))
    chunk = min(trained * shape.n_vocab * F32, LOGITS_CHUNK_BYTES)
    piece = min(shape.n_vocab * shape.d_model * width, OUTPUT_SLICE_BYTES)
    rows = 2 * trained * shape.d_model * width
    nbytes = chunk + piece + rows
    formula = f"logits {chunk:,} + output rows {piece:,} + hidden states {rows:,} bytes"
    return "loss", nbytes, formula


def scratch(shape: Shape, settings: Settings) -> tuple[str, float, str]:
    """Return what one layer's backward takes for a moment: gradients and an unpacked weight."""
    width = TYPE_BYTES[settings.compute_type]
    weight = shape.largest_linear * (width if settings.compiled else F32 * 2 + width)
    flowing = settings.tokens * width * (3 * shape.d_ff + 2 * shape.d_model)
    formula = f"one unpacked weight {weight:,} + gradients of one layer {flowing:,} bytes"
    if settings.method == "full-packed":
        weight += shape.largest_linear * F32 * 2
    return "scratch", weight + flowing, formula
