"""Where the bytes of a model file go: sections that add up to the file's size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llamune.arch import section_of
from llamune.gguf import ModelFile, TensorInfo

__all__ = ["Part", "Section", "part_of", "section_order", "sections_of"]

HEADER = "header"
TOKENIZER = "tokenizer"
UNUSED = "unused bytes"
NORMS = "norms"
PARTS = ("attention", "feed-forward")  # first in a block, in this order; norms last
ORDER = ("token embedding", "block", "output", "rope", "vision", "audio", "draft", "other")
BLOCK_TENSOR = re.compile(r"blk\.\d+\.(?P<rest>.+)")


@dataclass(frozen=True)
class Part:
    """A piece of a section.

    Args:
        name: what it is.
        nbytes: bytes in the file, padding included.
        n_parameters: weights in it.
        types: quant type name → bytes of tensors stored so.
    """

    name: str
    nbytes: int
    n_parameters: int = 0
    types: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Section:
    """A section of the file (design, section 4).

    Args:
        name: `header`, `tokenizer`, `token embedding`, `block 0` …, `output` and so on.
        parts: what it holds; their bytes add up to the section's.
        layout: name after the block's prefix, shape and type of each tensor: two blocks with
            the same layout are built alike.
    """

    name: str
    parts: tuple[Part, ...]
    layout: tuple[tuple[str, tuple[int, ...], str], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(part.nbytes for part in self.parts)

    @property
    def n_parameters(self) -> int:
        """Weights in it."""
        return sum(part.n_parameters for part in self.parts)

    @property
    def types(self) -> dict[str, int]:
        """Quant type name → bytes of tensors stored so, the biggest first."""
        total: dict[str, int] = {}
        for part in self.parts:
            for name, nbytes in (part.types or {}).items():
                total[name] = total.get(name, 0) + nbytes
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    @property
    def block(self) -> int | None:
        """The number of a block, None of other sections."""
        return int(self.name.removeprefix("block ")) if self.name.startswith("block ") else None


def sections_of(file: ModelFile) -> tuple[Section, ...]:
    """Return the sections of a file; their bytes add up to `file.size`."""
    tokenizer = tokenizer_section(file)
    padded, unused = padded_sizes(file)
    found = [header_section(file, tokenizer.nbytes)]
    if tokenizer.parts:
        found.append(tokenizer)
    found += tensor_sections(file.tensors.values(), padded)
    if unused:
        found.append(Section(UNUSED, (Part("between or after tensors", unused),)))
    return tuple(found)


def header_section(file: ModelFile, tokenizer_bytes: int) -> Section:
    """Return everything before the data that is not the tokenizer's."""
    table = sum(file.entry_span(name)[1] for name in file.tensors)
    padding = sum(header.data_offset - header.end for header in file.headers)
    cut = sum(
        max(0, header.data_offset - source.size)  # a file without tensors may end unpadded
        for header, source in zip(file.headers, file.sources, strict=True)
    )
    metadata = sum(file.data_offsets) - table - padding - tokenizer_bytes
    parts = {"metadata": metadata, "tensor table": table, "padding": padding - cut}
    return Section(HEADER, tuple(Part(name, nbytes) for name, nbytes in parts.items() if nbytes))


def tokenizer_section(file: ModelFile) -> Section:
    """Return the bytes of the metadata keys that describe the tokenizer."""
    sizes: dict[str, int] = {}
    for key in file.metadata:
        if key.startswith("tokenizer."):
            name = tokenizer_part(key)
            sizes[name] = sizes.get(name, 0) + file.metadata.span(key)[1]
    return Section(TOKENIZER, tuple(Part(name, nbytes) for name, nbytes in sizes.items()))


def tokenizer_part(key: str) -> str:
    """Return which part of the tokenizer a metadata key is."""
    if key.startswith("tokenizer.chat_template"):
        return "chat template"
    names = {
        "tokenizer.ggml.tokens": "vocabulary",
        "tokenizer.ggml.merges": "merges",
        "tokenizer.ggml.scores": "scores",
        "tokenizer.ggml.token_type": "token types",
    }
    return names.get(key, "settings")


def padded_sizes(file: ModelFile) -> tuple[dict[str, int], int]:
    """Return tensor name → bytes with the padding after it, and the bytes that nobody uses."""
    padded: dict[str, int] = {}
    unused = 0
    for shard, (source, header) in enumerate(zip(file.sources, file.headers, strict=True)):
        in_order = sorted(header.tensors, key=lambda tensor: tensor.offset)
        position = min(header.data_offset, source.size)
        for place, tensor in enumerate(in_order):
            unused += tensor.offset - position
            last = place + 1 == len(in_order)
            limit = source.size if last else in_order[place + 1].offset
            end = tensor.offset + tensor.nbytes
            position = min(limit, -(-end // file.headers[shard].alignment) * header.alignment)
            padded[tensor.name] = position - tensor.offset
        unused += source.size - position
    return padded, unused


def tensor_sections(tensors: Iterable[TensorInfo], padded: Mapping[str, int]) -> list[Section]:
    """Return the sections that hold tensors, in the order of computation."""
    by_section: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        by_section.setdefault(section_of(tensor.name), []).append(tensor)
    names = sorted(by_section, key=section_order)
    return [tensor_section(name, by_section[name], padded) for name in names]


def section_order(name: str) -> tuple[int, int]:
    """Return the place of a section among the others."""
    kind, _, number = name.partition(" ")
    if kind == "block":
        return ORDER.index("block"), int(number)
    return (ORDER.index(name) if name in ORDER else len(ORDER)), 0


def tensor_section(name: str, tensors: Sequence[TensorInfo], padded: Mapping[str, int]) -> Section:
    """Return one section that holds tensors."""
    by_part: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        by_part.setdefault(part_of(tensor.name), []).append(tensor)
    parts = tuple(
        Part(
            part,
            sum(padded[tensor.name] for tensor in held),
            sum(tensor.n_elements for tensor in held),
            bytes_by_type(held),
        )
        for part, held in sorted(by_part.items(), key=lambda item: part_order(item[0]))
    )
    layout = tuple(
        (local_name(tensor.name), tensor.shape, tensor.type.name)
        for tensor in sorted(tensors, key=lambda tensor: tensor.name)
    )
    return Section(name, parts, layout)


def part_order(name: str) -> int:
    """Return the place of a part among the others."""
    if name in PARTS:
        return PARTS.index(name)
    return len(PARTS) + (name == NORMS)


def bytes_by_type(tensors: Iterable[TensorInfo]) -> dict[str, int]:
    """Return quant type name → bytes of data."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.nbytes
    return sizes


def local_name(name: str) -> str:
    """Return a tensor's name without its block's number."""
    match = BLOCK_TENSOR.fullmatch(name)
    return match["rest"] if match else name


def part_of(name: str) -> str:
    """Return the part of its section that a tensor belongs to: attention, norms and so on."""
    local = local_name(name)
    stem = local.partition(".")[0]
    if "norm" in stem:
        return NORMS
    if local == name:
        return local
    if stem.startswith("attn") or "attention" in stem:
        return "attention"
    if stem.startswith(("ffn", "exp_probs")):
        return "feed-forward"
    return stem
