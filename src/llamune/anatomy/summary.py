"""What a model file says about itself, in facts; a key that is missing gives None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llamune.arch import section_of
from llamune.gguf import Metadata, ModelFile, ValueType, file_type_of_number

__all__ = ["AdapterFacts", "Rope", "Summary", "TokenizerFacts", "adapter_facts", "summarize"]

SPECIAL_ROLES = {
    "bos": "begin of text",
    "eos": "end of text",
    "eot": "end of turn",
    "eom": "end of message",
    "unknown": "unknown",
    "seperator": "separator",  # the misspelling is part of the format
    "padding": "padding",
    "mask": "mask",
    "cls": "classification",
}
NOT_WEIGHTS = {"rope"}  # sections whose tensors are not learnt

Count = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Rope:
    """How positions are turned into angles.

    Args:
        base: base of the frequencies.
        n_dimensions: numbers of each head that are turned.
        scaling: `linear`, `yarn`, `longrope` …, `tensor` for factors stored as a tensor, or None.
        factor: how much longer than the original the context is stretched.
        original_context: tokens the model was trained for before stretching.
    """

    base: float | None
    n_dimensions: int | None
    scaling: str | None
    factor: float | None
    original_context: int | None


@dataclass(frozen=True)
class TokenizerFacts:
    """What the file says about its tokenizer.

    Args:
        model: `gpt2` (BPE), `llama` (SentencePiece) and so on.
        pre: name of the pre-tokenizer.
        n_vocab: number of tokens.
        special: role → (id, text); the text is None when the id is not in the vocabulary.
        chat_template: the template's text.
        add_bos: whether a text begins with the begin-of-text token.
    """

    model: str | None
    pre: str | None
    n_vocab: int
    special: dict[str, tuple[int, str | None]]
    chat_template: str | None
    add_bos: bool | None


@dataclass(frozen=True)
class AdapterFacts:
    """What a LoRA file says about itself.

    Args:
        ranks: ranks of its pairs, rising.
        alpha: the scale's numerator; the scale is alpha / rank.
        targets: names of the tensors of a block that it changes.
        n_pairs: number of tensors that it changes.
        n_parameters: its own weights.
        base: name of the model it was trained on.
    """

    ranks: tuple[int, ...]
    alpha: float | None
    targets: tuple[str, ...]
    n_pairs: int
    n_parameters: int
    base: str | None


@dataclass(frozen=True)
class Summary:
    """The facts of a model file; counts that differ from block to block are tuples."""

    name: str | None
    kind: str
    architecture: str | None
    license: str | None
    version: int
    size_bytes: int
    n_shards: int
    n_tensors: int
    n_parameters: int
    file_type: str | None
    nominal_bpw: float | None
    bpw: float
    n_layer: Count
    d_model: Count
    d_ff: Count
    n_head: Count
    n_head_kv: Count
    head_dim: Count
    context_length: Count
    sliding_window: Count
    n_expert: Count
    tied_output: bool
    rope: Rope
    tokenizer: TokenizerFacts | None
    adapter: AdapterFacts | None
    warnings: tuple[str, ...] = field(default=())


def summarize(file: ModelFile) -> Summary:
    """Return the facts of a file. Nothing is guessed: a fact that the file lacks is None."""
    metadata = file.metadata
    architecture = text(metadata, "general.architecture")
    weights = [t for t in file.tensors.values() if section_of(t.name) not in NOT_WEIGHTS]
    n_parameters = sum(tensor.n_elements for tensor in weights)
    label = count(metadata, "general.file_type")
    kind = file_type_of_number(label) if isinstance(label, int) else None

    def size(key: str) -> Count:
        return count(metadata, f"{architecture}.{key}")

    n_head, d_model = size("attention.head_count"), size("embedding_length")
    head_dim = size("attention.key_length")
    if head_dim is None and isinstance(n_head, int) and isinstance(d_model, int) and n_head:
        head_dim = d_model // n_head
    facts = tokenizer_facts(metadata)
    return Summary(
        name=text(metadata, "general.name"),
        kind=text(metadata, "general.type") or "model",
        architecture=architecture,
        license=text(metadata, "general.license"),
        version=file.version,
        size_bytes=file.size,
        n_shards=len(file.paths),
        n_tensors=len(file.tensors),
        n_parameters=n_parameters,
        file_type=kind.name if kind else (None if label is None else f"unknown ({label})"),
        nominal_bpw=kind.base.bpw if kind else None,
        bpw=8 * sum(tensor.nbytes for tensor in weights) / n_parameters if n_parameters else 0.0,
        n_layer=size("block_count"),
        d_model=d_model,
        d_ff=size("feed_forward_length"),
        n_head=n_head,
        n_head_kv=size("attention.head_count_kv"),
        head_dim=head_dim,
        context_length=size("context_length"),
        sliding_window=size("attention.sliding_window"),
        n_expert=size("expert_count"),
        tied_output="token_embd.weight" in file.tensors and "output.weight" not in file.tensors,
        rope=rope_facts(file, architecture),
        tokenizer=facts,
        adapter=adapter_facts(file),
        warnings=(*file.warnings, *vocabulary_warnings(metadata)),
    )


def text(metadata: Metadata, key: str) -> str | None:
    """Return a text; None when the key is missing or holds something else."""
    if key in metadata and metadata.value_type(key) is ValueType.STRING:
        return metadata.text(key)
    return None


def number(metadata: Metadata, key: str) -> float | None:
    """Return a number; None when the key is missing or holds something else."""
    value = metadata.get(key)
    return float(value) if isinstance(value, int | float) and value is not True else None


def count(metadata: Metadata, key: str) -> Count:
    """Return a count, or a count for each block; None when the key is missing or odd."""
    if key not in metadata or metadata.value_type(key) is ValueType.STRING:
        return None
    if metadata.element_type(key) is ValueType.STRING:
        return None
    value: Any = metadata[key]
    if metadata.element_type(key) is None:
        return int(value)
    values = tuple(int(one) for one in value)
    return values[0] if values and len(set(values)) == 1 else values


def rope_facts(file: ModelFile, architecture: str | None) -> Rope:
    """Return how positions are encoded."""
    prefix = f"{architecture}.rope"
    metadata = file.metadata
    scaling = text(metadata, f"{prefix}.scaling.type")
    if scaling in (None, "none") and any(section_of(n) == "rope" for n in file.tensors):
        scaling = "tensor"
    n_dimensions = count(metadata, f"{prefix}.dimension_count")
    original = count(metadata, f"{prefix}.scaling.original_context_length")
    return Rope(
        base=number(metadata, f"{prefix}.freq_base"),
        n_dimensions=n_dimensions if isinstance(n_dimensions, int) else None,
        scaling=None if scaling == "none" else scaling,
        factor=number(metadata, f"{prefix}.scaling.factor"),
        original_context=original if isinstance(original, int) else None,
    )


def tokenizer_facts(metadata: Metadata) -> TokenizerFacts | None:
    """Return what the file says about its tokenizer; None when it has none."""
    if not any(key.startswith("tokenizer.") for key in metadata):
        return None
    vocabulary = "tokenizer.ggml.tokens"
    has_tokens = vocabulary in metadata and metadata.element_type(vocabulary) is ValueType.STRING
    ids = {
        words: found
        for role, words in SPECIAL_ROLES.items()
        if isinstance(found := count(metadata, f"tokenizer.ggml.{role}_token_id"), int)
    }
    texts = metadata.strings_at(vocabulary, ids.values()) if has_tokens else {}
    add_bos = "tokenizer.ggml.add_bos_token"
    return TokenizerFacts(
        model=text(metadata, "tokenizer.ggml.model"),
        pre=text(metadata, "tokenizer.ggml.pre"),
        n_vocab=metadata.length(vocabulary) if has_tokens else 0,
        special={words: (one, texts.get(one)) for words, one in ids.items()},
        chat_template=text(metadata, "tokenizer.chat_template"),
        add_bos=bool(metadata[add_bos]) if add_bos in metadata else None,
    )


def vocabulary_warnings(metadata: Metadata) -> list[str]:
    """Return where the vocabulary's arrays contradict each other."""
    tokens = "tokenizer.ggml.tokens"
    if tokens not in metadata:
        return []
    wanted = metadata.length(tokens)
    return [
        f"{key} has {metadata.length(key):,} entries, the vocabulary has {wanted:,}"
        for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
        if key in metadata and metadata.length(key) != wanted
    ]


def adapter_facts(file: ModelFile) -> AdapterFacts | None:
    """Return the facts of a LoRA file; None for anything else."""
    if text(file.metadata, "general.type") != "adapter":
        return None
    seconds = [tensor for name, tensor in file.tensors.items() if name.endswith(".lora_b")]
    targets = sorted({target_of(tensor.name) for tensor in seconds})
    return AdapterFacts(
        ranks=tuple(sorted({tensor.n_columns for tensor in seconds})),
        alpha=number(file.metadata, "adapter.lora.alpha"),
        targets=tuple(targets),
        n_pairs=len(seconds),
        n_parameters=sum(tensor.n_elements for tensor in file.tensors.values()),
        base=text(file.metadata, "general.base_model.0.name"),
    )


def target_of(name: str) -> str:
    """Return the name of a changed tensor without its block and endings."""
    parts: Sequence[str] = name.removesuffix(".lora_b").removesuffix(".weight").split(".")
    return parts[-1]
