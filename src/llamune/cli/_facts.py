"""The facts of a model file in words, for `llamune inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamune.anatomy import AdapterFacts, Rope, Summary, TokenizerFacts
    from llamune.gguf import ModelFile
    from llamune.store import Adapter, Model

__all__ = ["facts", "size_text", "stored_adapters"]


def stored_adapters(model: Model) -> Iterator[tuple[Adapter, AdapterFacts]]:
    """Yield the adapters that a stored model applies, with their facts."""
    from llamune.anatomy import adapter_facts
    from llamune.gguf import ModelFile

    for adapter in model.adapters:
        with ModelFile.open(adapter.path, mapped=False) as file:
            facts = adapter_facts(file)
        if facts is not None:
            yield adapter, facts


def facts(model: Model, file: ModelFile, summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield the facts as label and text; facts that the file lacks are left out."""
    yield "model", model.ref if summary.name is None else f"{model.ref}: {summary.name}"
    yield "file", "\n".join(str(path) for path in file.paths)
    kind = f"{summary.architecture or 'unknown architecture'}, {summary.kind}"
    yield "kind", f"{kind}, GGUF version {summary.version}"
    yield "size", size_text(file.size)
    yield "licence", summary.license or "not stated in the file"
    if summary.adapter is not None:
        yield "adapter", adapter_text(summary.adapter)
    yield "parameters", f"{summary.n_parameters:,} in {summary.n_tensors:,} tensors"
    yield "precision", precision_text(summary)
    if summary.context_length is not None:
        yield "context", f"{count_text(summary.context_length)} tokens"
    if summary.n_layer is not None:
        yield "blocks", block_text(summary)
    if summary.n_head is not None:
        yield "attention", attention_text(summary)
        yield "RoPE", rope_text(summary.rope)
    if summary.tokenizer is not None:
        yield from tokenizer_lines(summary.tokenizer)
    for adapter, found in stored_adapters(model):
        yield "applies", f"{adapter_text(found)}, {adapter.path}"


def size_text(n_bytes: int) -> str:
    """Return a size in bytes, and in the two units that people confuse."""
    return f"{n_bytes:,} bytes = {n_bytes / 1e9:.3f} GB = {n_bytes / 2**30:.3f} GiB"


def precision_text(summary: Summary) -> str:
    """Say which file type it is and what that costs a weight."""
    label = summary.file_type or "file type not stated"
    nominal = ""
    if summary.nominal_bpw is not None and summary.kind == "model":
        nominal = f"; its main type alone has {summary.nominal_bpw:g}"
    return f"{label}, {summary.bpw:.3f} bits a weight{nominal}"


def block_text(summary: Summary) -> str:
    """Say how many blocks there are, and how wide."""
    parts = [count_text(summary.n_layer)]
    if summary.d_model is not None:
        parts.append(f"width {count_text(summary.d_model)}")
    if summary.d_ff is not None:
        parts.append(f"feed-forward {count_text(summary.d_ff)}")
    if summary.n_expert:
        parts.append(f"{count_text(summary.n_expert)} experts")
    return ", ".join(parts)


def attention_text(summary: Summary) -> str:
    """Say how many heads there are, how they share keys, and how far they look."""
    heads, shared = summary.n_head, summary.n_head_kv
    parts = [f"{count_text(heads)} heads of {count_text(summary.head_dim)}"]
    if isinstance(heads, int) and isinstance(shared, int) and shared:
        if shared == heads:
            parts.append("each with keys of its own")
        else:
            parts.append(f"{shared} key/value heads (GQA, {heads / shared:g} share one)")
    elif shared is not None:
        parts.append(f"key/value heads {count_text(shared)}")
    if summary.sliding_window:
        parts.append(f"sliding window {count_text(summary.sliding_window)}")
    return ", ".join(parts)


def rope_text(rope: Rope) -> str:
    """Say how positions are encoded."""
    parts = ["base not stated" if rope.base is None else f"base {rope.base:,.10g}"]
    if rope.n_dimensions is not None:
        parts.append(f"{rope.n_dimensions} dimensions of a head")
    if rope.scaling is None:
        parts.append("no scaling")
    else:
        factor = "" if rope.factor is None else f" by {rope.factor:g}"
        parts.append(f"scaling {rope.scaling}{factor}")
    if rope.original_context is not None:
        parts.append(f"trained for {rope.original_context:,} tokens")
    return ", ".join(parts)


def tokenizer_lines(tokenizer: TokenizerFacts) -> Iterator[tuple[str, str]]:
    """Yield what the file says about its tokenizer."""
    pre = "" if tokenizer.pre is None else f", pre-tokenizer {tokenizer.pre}"
    yield "tokenizer", f"{tokenizer.model or 'unknown'}{pre}, {tokenizer.n_vocab:,} tokens"
    special = [
        f"{role} {number}" + ("" if text is None else f" {text!r}")
        for role, (number, text) in tokenizer.special.items()
    ]
    if special:
        yield "special", ", ".join(special)
    template = tokenizer.chat_template
    yield "template", "none" if template is None else f"Jinja, {len(template):,} characters"


def adapter_text(adapter: AdapterFacts) -> str:
    """Say what a LoRA file changes."""
    ranks = ", ".join(str(rank) for rank in adapter.ranks)
    alpha = "not stated" if adapter.alpha is None else f"{adapter.alpha:g}"
    base = "" if adapter.base is None else f", trained on {adapter.base}"
    return (
        f"LoRA, rank {ranks}, alpha {alpha}, {adapter.n_pairs} tensors "
        f"({', '.join(adapter.targets)}), {adapter.n_parameters:,} weights{base}"
    )


def count_text(value: int | tuple[int, ...] | None) -> str:
    """Return a count, or the range of counts that differ from block to block."""
    if value is None:
        return "?"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{min(value):,} to {max(value):,}" if value else "none"
