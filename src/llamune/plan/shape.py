"""The numbers of a model that memory and time depend on, from a header or from published sizes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llamune.arch import Family, Role
from llamune.errors import LlamuneError
from llamune.gguf import ModelFile

__all__ = ["ATTENTION", "MLP", "Linear", "Shape", "shape_of"]

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"})
MLP = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj"})
GROUPS = {"attention": ATTENTION, "mlp": MLP}
EMBEDDING = "token_embd.weight"
OUTPUT = "output.weight"


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A kind of linear layer that every block has once.

    Args:
        name: last part of its module path, such as `q_proj`.
        rows: outputs.
        columns: inputs.
    """

    name: str
    rows: int
    columns: int

    @property
    def n_elements(self) -> int:
        """Weights in one."""
        return self.rows * self.columns


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's numbers. Counts, unless the name says bytes.

    Args:
        name: what to call the model.
        architecture: GGUF name of its family.
        n_layer, d_model, n_head, n_head_kv, head_dim, d_ff, n_vocab: as in `arch.Sizes`.
        context_length: tokens the model was made for.
        sliding_window: tokens that windowed layers look back, or None.
        n_window_layers: how many layers do.
        linears: the kinds of linear layer of a block.
        n_norms: norms over the hidden state in a block.
        tied: one matrix for embedding and output.
        n_parameters: all weights of the text model.
        file_bytes: the file, header included.
        embedding_bytes: the token embedding as stored.
        output_bytes: the output matrix as stored; 0 when tied.
        file_type: its quant types in one word.
        extra_bytes: tensors beside the text model (vision, audio), which training leaves alone.
    """

    name: str
    architecture: str
    n_layer: int
    d_model: int
    n_head: int
    n_head_kv: int
    head_dim: int
    d_ff: int
    n_vocab: int
    context_length: int
    linears: tuple[Linear, ...]
    n_norms: int
    tied: bool
    n_parameters: int
    file_bytes: int
    embedding_bytes: int
    output_bytes: int
    file_type: str
    sliding_window: int | None = None
    n_window_layers: int = 0
    extra_bytes: int = 0

    @property
    def d_query(self) -> int:
        """Columns of all query heads together."""
        return self.n_head * self.head_dim

    @property
    def d_key(self) -> int:
        """Columns of all key heads together."""
        return self.n_head_kv * self.head_dim

    @property
    def multiplying_parameters(self) -> int:
        """Weights that multiply activations: the blocks' linear layers and the output matrix."""
        block = sum(linear.n_elements for linear in self.linears)
        return self.n_layer * block + self.n_vocab * self.d_model

    @property
    def largest_linear(self) -> int:
        """Weights of the largest linear layer of a block."""
        return max(linear.n_elements for linear in self.linears)

    def targeted(self, targets: str | Collection[str]) -> tuple[Linear, ...]:
        """Return the kinds of layer that get an adapter: `all`, `attention`, `mlp`, or names.

        Raises:
            LlamuneError: a name fits no layer.
        """
        if targets == "all":
            return self.linears
        if isinstance(targets, str) and targets in GROUPS:
            group = GROUPS[targets]
            return tuple(linear for linear in self.linears if linear.name in group)
        wanted = {targets} if isinstance(targets, str) else set(targets)
        known = {linear.name for linear in self.linears}
        if unknown := sorted(wanted - known):
            raise LlamuneError(
                f"{self.name}: no linear layer is named {', '.join(unknown)}",
                hint=f"all, attention, mlp, or some of: {', '.join(sorted(known))}",
            )
        return tuple(linear for linear in self.linears if linear.name in wanted)

    def flops_per_token(
        self, length: float, *, passes: str = "forward", trained_share: float = 1.0
    ) -> float:
        """Return floating-point operations a token.

        Args:
            length: mean tokens of a sequence; attention is causal, each sees half of them.
            passes: a key of `PASSES`.
            trained_share: share of tokens that the loss counts; the others never reach the
                output matrix in training.

        Source: two operations a multiplying weight forward; backward costs two for the
            gradient of the inputs and two for that of the weights, which neither LoRA needs nor
            an output that stays as it is ("LoRA Without Regret", 2025); attention has no weights,
            so forward, twice backward.
            The output matrix is not computed again when blocks are.
        """
        per_weight, per_score, per_output = PASSES[passes]
        scores = 2 * self.n_layer * self.d_query * length
        output = self.n_vocab * self.d_model
        blocks = self.multiplying_parameters - output
        return per_weight * blocks + per_score * scores + per_output * output * trained_share


# operations a weight of a block, passes over attention, operations a weight of the output
PASSES = {
    "forward": (2, 1, 2),
    "lora": (4, 3, 4),
    "lora+recompute": (6, 4, 4),
    "full": (6, 3, 4),
    "full+recompute": (8, 4, 4),
    "full+embeddings": (6, 3, 6),
    "full+embeddings+recompute": (8, 4, 6),
}


def shape_of(file: ModelFile, family: Family, *, name: str | None = None) -> Shape:
    """Return the numbers of an opened file.

    Args:
        file: the model.
        family: what `arch.describe` said of it.
        name: what to call it; default its own name.
    """
    sizes = family.sizes
    blocks = {
        rule.module.rpartition(".")[2]: Linear(
            name=rule.module.rpartition(".")[2], rows=rule.shape[0], columns=rule.shape[1]
        )
        for rule in family.rules.values()
        if rule.role is Role.LINEAR and ".layers.0." in rule.module
    }
    n_norms = sum(
        rule.role is Role.NORM and ".layers.0." in rule.module and rule.shape == (sizes.d_model,)
        for rule in family.rules.values()
    )
    extra = [file.tensors[name] for name in family.extra]
    text = [tensor for tensor in file.tensors.values() if tensor.name not in set(family.extra)]
    output = file.tensors.get(OUTPUT)
    return Shape(
        name=name or file.metadata.text("general.name", default=file.path.stem),
        architecture=family.name,
        n_layer=sizes.n_layer,
        d_model=sizes.d_model,
        n_head=sizes.n_head,
        n_head_kv=sizes.n_head_kv,
        head_dim=sizes.head_dim,
        d_ff=sizes.d_ff,
        n_vocab=sizes.n_vocab,
        context_length=sizes.context_length,
        linears=tuple(blocks.values()),
        n_norms=n_norms,
        tied=family.tied,
        n_parameters=sum(tensor.n_elements for tensor in text),
        file_bytes=file.size,
        embedding_bytes=file.tensors[EMBEDDING].nbytes,
        output_bytes=0 if output is None else output.nbytes,
        file_type=commonest_type(file),
        sliding_window=sizes.sliding_window,
        n_window_layers=window_layers(family),
        extra_bytes=sum(tensor.nbytes for tensor in extra),
    )


def commonest_type(file: ModelFile) -> str:
    """Return the quant type that holds the most weights."""
    weights: dict[str, int] = {}
    for tensor in file.tensors.values():
        weights[tensor.type.name] = weights.get(tensor.type.name, 0) + tensor.n_elements
    return max(weights, key=lambda kind: weights[kind])


def window_layers(family: Family) -> int:
    """Return how many layers look back only over the sliding window."""
    kinds = family.config.get("layer_types")
    if kinds is not None:
        return sum(kind == "sliding_attention" for kind in kinds)
    return 0
