"""A model file to a transformers folder: safetensors, config, tokenizer, chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llamune.arch import Family, OffsetNorm, PermuteRows, TensorRule, describe
from llamune.convert.tokenizer_files import write_json, write_tokenizer_files
from llamune.errors import LlamuneError, UnsupportedError
from llamune.files import new_folder
from llamune.gguf import ModelFile
from llamune.text import tokenizer_of

__all__ = ["to_transformers"]

CHUNK_ROWS_BYTES = 16 << 20
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def to_transformers(
    file: ModelFile,
    folder: Path,
    type: str = "F32",  # noqa: A002  the word people use
    *,
    advance: Callable[[int], object] | None = None,
) -> Family:
    """Write a transformers folder from a model file; memory stays at one tensor of one layer.

    Args:
        file: the model.
        folder: the new folder; must not exist.
        type: F32 keeps every value of the file; F16 and BF16 round it.
        advance: called with the number of bytes just written.

    Returns:
        What the model is.

    Raises:
        UnsupportedError: the architecture, its RoPE scaling or the tokenizer has no exact form
            in transformers, or the file carries more than the text model.
        LlamuneError: the folder exists.
    """
    wanted = type.upper()
    if wanted not in DTYPES:
        raise LlamuneError(
            f"type {type!r} is not one of transformers'", hint=f"one of: {', '.join(DTYPES)}"
        )
    family = describe(file)
    refuse_what_is_lost(file, family)
    with new_folder(folder) as out:
        write_tokenizer_files(file, out)
        write_config(file, family, out, DTYPES[wanted])
        with (out / "model.safetensors").open("wb") as target:
            write_weights(target, file, family, wanted, advance)
    return family


def refuse_what_is_lost(file: ModelFile, family: Family) -> None:
    """Raise when transformers' class would compute something else than the file says."""
    if family.extra:
        raise UnsupportedError(
            f"{file.path}: {family.extra[0]} and {len(family.extra) - 1} more tensors lie beside "
            "the text model and have no place in its transformers class"
        )
    rope = family.config["rope_parameters"]
    if family.rope_factors is not None and rope.get("rope_type") != "llama3":
        raise UnsupportedError(
            f"{file.path}: {family.rope_factors} is no Llama 3 scaling, and transformers has no "
            "other form for it"
        )


def write_config(file: ModelFile, family: Family, out: Path, dtype: str) -> None:
    """Write `config.json` and `generation_config.json`."""
    config = {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        **family.config,
        "dtype": dtype,
    }
    write_json(out / "config.json", config)
    stops = sorted(tokenizer_of(file).stop_ids)
    generation = {
        "bos_token_id": family.config["bos_token_id"],
        "eos_token_id": stops,
        "pad_token_id": family.config["pad_token_id"],
    }
    write_json(out / "generation_config.json", generation)


def write_weights(
    target: BinaryIO,
    file: ModelFile,
    family: Family,
    wanted: str,
    advance: Callable[[int], object] | None,
) -> None:
    """Write one safetensors file, tensor by tensor.

    Source: the safetensors format: header length (u64), JSON header padded with spaces, data.
    """
    n_bytes = 4 if wanted == "F32" else 2
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, rule in family.rules.items():
        start, end = end, end + rule.n_elements * n_bytes
        offsets = [start, end]
        header[name] = {"dtype": wanted, "shape": list(rule.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write(len(text).to_bytes(8, "little"))
    target.write(text)
    for rule in family.rules.values():
        for chunk in chunks_of(file, rule):
            data = stored(chunk, wanted)
            target.write(data)
            if advance is not None:
                advance(len(data))


def chunks_of(file: ModelFile, rule: TensorRule) -> Iterator[np.ndarray]:
    """Yield a tensor's f32 rows in transformers' order."""
    info = file.tensors[rule.gguf]
    if isinstance(rule.transform, PermuteRows):
        order = rule.transform.torch_rows(rule.shape[0])
        yield file.floats(rule.gguf).reshape(rule.shape)[order]
        return
    step = max(1, CHUNK_ROWS_BYTES // (4 * info.n_columns))
    for start in range(0, info.n_rows, step):
        values = file.floats(rule.gguf, start, min(start + step, info.n_rows))
        if isinstance(rule.transform, OffsetNorm):
            values = values - np.float32(rule.transform.offset)
        yield values


def stored(values: np.ndarray, wanted: str) -> bytes:
    """Return floats as they are stored."""
    if wanted == "F16":
        return values.astype("<f2").tobytes()
    if wanted == "F32":
        return values.astype("<f4").tobytes()
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # to the nearest, ties to even
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes()
