"""A transformers folder (safetensors, config, tokenizer) to a GGUF file, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamune.arch import (
    Config,
    Family,
    NewKeys,
    OffsetNorm,
    PermuteRows,
    TensorRule,
    describe,
    keys_of_config,
)
from llamune.convert.safetensors_folder import FolderTensor, open_folder
from llamune.convert.tokenizer_keys import tokenizer_keys
from llamune.convert.type_rules import ModelShape, TypeOptions, choose_types
from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf import (
    Entry,
    FileType,
    NewTensor,
    QuantType,
    TensorInfo,
    file_type,
    floats_to_rows,
    quant_type,
    write_gguf,
)

__all__ = ["from_transformers"]

CHUNK_BYTES = 16 << 20  # of f32 rows at a time
LAYERS_OF_70B = 80


@dataclass(frozen=True)
class Shape:
    """A tensor's place in the draft."""

    shape: tuple[int, ...]


class DraftKeys(dict[str, Any]):
    """Metadata of a file that is not written yet, read as `Metadata` is."""

    def integer(self, key: str, *, default: int | None = None) -> int:
        """Return a whole number."""
        return int(self[key] if default is None else self.get(key, default))

    def number(self, key: str, *, default: float | None = None) -> float:
        """Return a number."""
        return float(self[key] if default is None else self.get(key, default))

    def text(self, key: str, *, default: str | None = None) -> str:
        """Return a text."""
        return str(self[key] if default is None else self.get(key, default))


@dataclass(frozen=True)
class Draft:
    """A model file before it is written: enough for `arch.describe`."""

    path: Path
    architecture: str
    metadata: DraftKeys
    tensors: Mapping[str, Shape]
    tables: Mapping[str, np.ndarray]

    def floats(self, name: str) -> np.ndarray:
        """Return one of the tables that the config makes."""
        return self.tables[name]


def from_transformers(
    folder: Path,
    out: Path,
    type: str = "F16",  # noqa: A002  the word people use
    *,
    pure: bool = False,
    replace: bool = False,
    advance: Callable[[int], object] | None = None,
) -> Family:
    """Write a GGUF file from a transformers folder; memory stays at one chunk of rows.

    Args:
        folder: `config.json`, safetensors, tokenizer.
        out: the new file.
        type: file type; which tensor gets which type is llama.cpp's choice.
        pure: give all matrices the file type's main type.
        replace: whether a file at `out` may be replaced.
        advance: called with the number of bytes just written.

    Returns:
        What the new file is.

    Raises:
        UnsupportedError: the model class, an entry of its config, a tensor or the tokenizer is
            not implemented exactly.
        LlamuneError: something in the folder is missing or damaged.
    """
    wanted = file_type(type)
    config = read_config(folder)
    new = keys_of_config(config)
    tensors = open_folder(folder)
    draft = draft_of(folder, config, new, tensors)
    family = describe(draft)
    check_all_used(folder, family, tensors)
    metadata = {key: Entry.of(value) for key, value in draft.metadata.items()}
    metadata |= general_keys(folder, wanted)
    written = [table_tensor(name, table) for name, table in new.tables.items()]
    rules = sorted(family.rules.values(), key=lambda rule: file_order(rule.gguf))
    types = types_of(family, rules, wanted, pure=pure)
    written += [new_tensor(rule, tensors[rule.name], types[rule.gguf]) for rule in rules]
    write_gguf(out, metadata=metadata, tensors=written, replace=replace, advance=advance)
    return family


def read_config(folder: Path) -> Config:
    """Return the folder's `config.json`.

    Raises:
        LlamuneError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LlamuneError(f"{path}: missing", hint="this is no transformers folder") from None
    except ValueError as error:
        raise LlamuneError(f"{path}: no JSON: {error}") from None
    if not isinstance(entries, dict):
        raise LlamuneError(f"{path}: no JSON object")
    return Config(path, entries)


def draft_of(
    folder: Path, config: Config, new: NewKeys, tensors: Mapping[str, FolderTensor]
) -> Draft:
    """Return the header that the new file will have, tensors by their GGUF names."""
    n_vocab = config.integer("vocab_size")
    keys = DraftKeys({"general.architecture": new.architecture})
    keys.update({f"{new.architecture}.{key}": value for key, value in new.keys.items()})
    keys.update(tokenizer_keys(folder, n_vocab))
    names = gguf_names(new.architecture, new.keys["block_count"])
    tied = bool(config.get("tie_word_embeddings", False))
    shapes = {
        names(name): Shape(tensor.shape)
        for name, tensor in tensors.items()
        if not (tied and name == "lm_head.weight")
    }
    shapes |= {name: Shape(table.shape) for name, table in new.tables.items()}
    return Draft(folder, new.architecture, keys, shapes, new.tables)


def gguf_names(architecture: str, n_layer: int) -> Callable[[str], str]:
    """Return the function from transformers to GGUF tensor names, by gguf-py's table."""
    from gguf.constants import MODEL_ARCH_NAMES
    from gguf.tensor_mapping import get_tensor_name_map

    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(arch, n_layer)

    def name_of(name: str) -> str:
        if name == "lm_head.weight":  # gguf-py leaves it out where a family ties it
            return "output.weight"
        return table.get_name(name, try_suffixes=(".weight", ".bias")) or name

    return name_of


def check_all_used(folder: Path, family: Family, tensors: Mapping[str, FolderTensor]) -> None:
    """Raise unless each rule's tensor is in the folder (`describe` checked the other way)."""
    if missing := sorted(set(family.rules) - set(tensors)):
        raise LlamuneError(f"{folder}: {missing[0]} is missing (of {len(missing)})")


def general_keys(folder: Path, wanted: FileType) -> dict[str, Entry]:
    """Return the keys that say what the file is."""
    keys: dict[str, object] = {
        "general.type": "model",
        "general.name": folder.resolve().name,
        "general.file_type": wanted.id,
    }
    if wanted.base.is_quantized:
        keys["general.quantization_version"] = 2
    return {key: Entry.of(value) for key, value in keys.items()}


def file_order(name: str) -> tuple[int, int, str]:
    """Return where a tensor comes in the file: embedding, blocks, output."""
    if name.startswith("blk."):
        return 1, int(name.split(".")[1]), name
    return (0 if name.startswith("token_embd") else 2), 0, name


def table_tensor(name: str, table: np.ndarray) -> NewTensor:
    """Return a tensor that the config makes, in F32."""
    data = np.ascontiguousarray(table, dtype="<f4")
    return NewTensor(name, data.shape, quant_type("F32"), lambda: [data])


def new_tensor(rule: TensorRule, tensor: FolderTensor, kind: QuantType) -> NewTensor:
    """Return one tensor of the new file."""
    return NewTensor(rule.gguf, rule.shape, kind, lambda: rows_of(rule, tensor, kind))


def types_of(
    family: Family, rules: Sequence[TensorRule], wanted: FileType, *, pure: bool
) -> dict[str, QuantType]:
    """Return the type of each tensor by its GGUF name, as if an F32 file were quantized."""
    f32 = quant_type("F32")
    drafts = [TensorInfo(rule.gguf, rule.shape, f32, 0, 4 * rule.n_elements) for rule in rules]
    sizes = family.sizes
    shape = ModelShape(
        architecture=family.name,
        n_layer=sizes.n_layer,
        n_expert=0,
        n_shared=sizes.n_head // sizes.n_head_kv,
        is_seventy_b=family.name == "llama"
        and sizes.n_layer == LAYERS_OF_70B
        and sizes.n_head != sizes.n_head_kv,
    )
    return choose_types(drafts, wanted, shape, options=TypeOptions(pure=pure))


def rows_of(rule: TensorRule, tensor: FolderTensor, kind: QuantType) -> Iterator[np.ndarray]:
    """Yield the tensor's packed rows in the file's order, a chunk at a time."""
    if tensor.shape != rule.shape:
        raise UnsupportedError(f"{rule.name}: shape {tensor.shape}, expected {rule.shape}")
    if isinstance(rule.transform, PermuteRows):
        order = rule.transform.file_rows(rule.shape[0])
        values = tensor.rows(0, tensor.n_rows).reshape(rule.shape)[order]
        yield floats_to_rows(values.reshape(-1, rule.shape[-1]), kind)
        return
    step = max(1, CHUNK_BYTES // (4 * rule.shape[-1]))
    for start in range(0, tensor.n_rows, step):
        values = tensor.rows(start, min(start + step, tensor.n_rows))
        if isinstance(rule.transform, OffsetNorm):
            values = values + np.float32(rule.transform.offset)
        yield floats_to_rows(values, kind)
