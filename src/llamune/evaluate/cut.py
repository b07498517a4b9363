"""A model cut to its first blocks and written in F32, in which a wrong formula cannot hide.

The noise of quantized matrix products covers faults that matter over a long training; without
it, two right implementations agree to a mean KL of about 1e-11.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamune.arch import describe, is_extra, section_of
from llamune.gguf import Entry, ModelFile, NewTensor, TensorInfo, quant_type, write_gguf

__all__ = ["CutSizes", "cut_adapter", "cut_model", "cut_peft", "sizes_of_cut"]

N_BLOCKS = 3
WINDOW_TOKENS = 24  # short enough that a prompt of a few sentences runs past it
MAX_EMBEDDING_ELEMENTS = 1 << 28
N_VOCAB = 8192
VOCABULARY_TENSORS = ("token_embd.weight", "output.weight")
ROWS_AT_ONCE = 4096
F32 = quant_type("F32")


@dataclass(frozen=True, kw_only=True)
class CutSizes:
    """How much of a model is kept.

    Attributes:
        n_blocks: blocks, from the first on.
        window: tokens that blocks with a sliding window look back; None where there is none.
        n_vocab: tokens of the vocabulary, from the first on; None keeps all, and the tokenizer.
    """

    n_blocks: int
    window: int | None
    n_vocab: int | None = None


def sizes_of_cut(file: ModelFile) -> CutSizes:
    """Return how much of a model to keep: three blocks, or one round of its window pattern.

    A large vocabulary is cut: in F32 that of Gemma 2 9B alone would take 3.7 GB.

    The window is shortened too: both sides read it from the file, and a window that is longer
    than every prompt would prove nothing.
    """
    sizes = describe(file).sizes
    large = sizes.n_vocab * sizes.d_model > MAX_EMBEDDING_ELEMENTS
    n_vocab = N_VOCAB if large else None
    if sizes.sliding_window is None:
        return CutSizes(n_blocks=min(N_BLOCKS, sizes.n_layer), window=None, n_vocab=n_vocab)
    pattern = file.metadata.get(f"{file.architecture}.attention.sliding_window_pattern", 6)
    period = pattern if isinstance(pattern, int) else len(pattern)
    n_blocks = min(max(N_BLOCKS, period), sizes.n_layer)
    window = min(WINDOW_TOKENS, sizes.sliding_window)
    return CutSizes(n_blocks=n_blocks, window=window, n_vocab=n_vocab)


def cut_model(file: ModelFile, sizes: CutSizes, out: Path) -> None:
    """Write the first blocks, the embedding and the output of a model in F32.

    Args:
        file: the model.
        sizes: how much of it to keep.
        out: the new file.

    Raises:
        UnsupportedError: a tensor's quant type cannot be unpacked.
    """
    kept = [info for info in file.tensors.values() if is_kept(info.name, sizes.n_blocks)]
    tensors = [in_floats(file, info, n_rows_of(info, sizes)) for info in kept]
    metadata = metadata_of(file, sizes)
    write_gguf(out, metadata=metadata, tensors=tensors, alignment=file.alignment)


def n_rows_of(info: TensorInfo, sizes: CutSizes) -> int:
    """Return how many of a tensor's rows are kept."""
    if sizes.n_vocab is not None and info.name in VOCABULARY_TENSORS:
        return min(sizes.n_vocab, info.n_rows)
    return info.n_rows


def in_floats(file: ModelFile, info: TensorInfo, n_rows: int) -> NewTensor:
    """Return a tensor to be written in F32, its first rows only."""
    shape = info.shape if n_rows == info.n_rows else (n_rows, *info.shape[1:])

    def chunks() -> Iterator[bytes]:
        for start in range(0, n_rows, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, n_rows)
            yield np.ascontiguousarray(file.floats(info.name, start, stop)).tobytes()

    return NewTensor(info.name, shape, F32, chunks)


def is_kept(name: str, n_blocks: int) -> bool:
    """Whether a tensor is part of the cut text model."""
    section = section_of(name)
    if section.startswith("block "):
        return int(section.removeprefix("block ")) < n_blocks
    return not is_extra(name)


def metadata_of(file: ModelFile, sizes: CutSizes) -> dict[str, Entry]:
    """Return the model's metadata with what counts blocks or the window changed."""
    prefix = file.architecture
    n_layer = file.metadata.integer(f"{prefix}.block_count")
    entries = {
        key: file.metadata.entry(key) for key in file.metadata if not key.startswith("split.")
    }
    for key in entries:
        if key.startswith(f"{prefix}.") and is_per_block(file, key, n_layer):
            kept = file.metadata[key][: sizes.n_blocks]
            entries[key] = Entry.of(np.asarray(kept))
    entries[f"{prefix}.block_count"] = Entry.of(sizes.n_blocks)
    if sizes.window is not None:
        entries[f"{prefix}.attention.sliding_window"] = Entry.of(sizes.window)
    entries["general.file_type"] = Entry.of(0)
    if sizes.n_vocab is not None:
        entries = {key: e for key, e in entries.items() if not key.startswith("tokenizer.")}
        entries["tokenizer.ggml.model"] = Entry.of("none")
        entries[f"{prefix}.vocab_size"] = Entry.of(sizes.n_vocab)
    return entries


def is_per_block(file: ModelFile, key: str, n_layer: int) -> bool:
    """Whether a value is an array with one entry a block."""
    return file.metadata.element_type(key) is not None and file.metadata.length(key) == n_layer


def cut_adapter(adapter: Path, n_blocks: int, out: Path) -> bool:
    """Write the part of a GGUF adapter that belongs to the first blocks, in F32.

    Returns:
        whether anything is left of it.
    """
    with ModelFile.open(adapter) as file:
        kept = [info for info in file.tensors.values() if is_kept(info.name, n_blocks)]
        if not kept:
            return False
        write_gguf(
            out,
            metadata={key: file.metadata.entry(key) for key in file.metadata},
            tensors=[in_floats(file, info, info.n_rows) for info in kept],
            alignment=file.alignment,
        )
    return True


def cut_peft(folder: Path, n_blocks: int, out: Path) -> bool:
    """Write the part of a PEFT adapter that belongs to the first blocks.

    Args:
        folder: adapter_config.json and adapter_model.safetensors.
        n_blocks: blocks to keep.
        out: the new folder.

    Returns:
        whether anything is left of it.
    """
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    kept = {key: value for key, value in tensors.items() if layer_of(key) < n_blocks}
    if not kept:
        return False
    out.mkdir(parents=True)
    save_file(kept, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    names: Any = config.get("target_modules")
    if isinstance(names, list):
        config["target_modules"] = [name for name in names if layer_of(name) < n_blocks]
    (out / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return True


def layer_of(key: str) -> int:
    """Return the block a parameter name speaks of, -1 where it speaks of none."""
    parts: Iterable[str] = key.split(".")
    before = ""
    for part in parts:
        if before == "layers" and part.isdecimal():
            return int(part)
        before = part
    return -1
