"""The choice of types, and whole files, against what llama.cpp's own quantizer did.

`recorded/record.py` made the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamune.convert import (
    FILE_TYPES,
    choose_types,
    file_type,
    model_shape,
    plan_quantize,
    quantize,
)
from llamune.errors import LlamuneError
from llamune.files import sha256_of
from llamune.gguf import ModelFile

from .families import FAMILIES, write_sparse
from .models import llama

RECORDED = Path(__file__).parent / "recorded"
TYPES = json.loads((RECORDED / "types.json").read_text())
FILES = json.loads((RECORDED / "files.json").read_text())["files"]
SLOW_TABLES = ("IQ2", "IQ3")


def unfolded(kinds: dict[str, str], n_layer: int) -> dict[str, str]:
    """Return tensor name → type from the table's runs."""
    found = {}
    for name, runs in kinds.items():
        values = list(each(runs))
        assert len(values) == (n_layer if "blk.N" in name else 1)
        for block, kind in enumerate(values):
            found[name.replace("blk.N", f"blk.{block}")] = kind
    return found


def each(runs: str) -> Iterator[str]:
    for run in runs.split():
        kind, _, count = run.rpartition("*")
        yield from [kind] * int(count)


def test_the_tables_cover_every_family_and_file_type() -> None:
    assert set(TYPES) == {"made by", *FAMILIES}
    for family in FAMILIES:
        assert set(FILE_TYPES) - set(TYPES[family]) == {"NVFP4"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(family: str, tmp_path: Path) -> None:
    table = TYPES[family]
    with ModelFile.open(write_sparse(tmp_path / "model.gguf", FAMILIES[family])) as file:
        shape = model_shape(file)
        tensors = list(file.tensors.values())
        for name in FILE_TYPES.keys() - {"NVFP4"}:
            for weighted in (False, True):
                kinds = table.get(f"{name} weighted", table[name]) if weighted else table[name]
                if not kinds:
                    with pytest.raises(LlamuneError):
                        choose_types(tensors, file_type(name), shape, has_importance=weighted)
                    continue
                chosen = choose_types(tensors, file_type(name), shape, has_importance=weighted)
                found = {tensor: kind.name for tensor, kind in chosen.items()}
                assert found == unfolded(kinds, shape.n_layer), (name, weighted)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith(SLOW_TABLES) else [])
        for name in FILES
    ],
)
def test_the_whole_file_is_the_one_that_llama_cpp_writes(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    with ModelFile.open(llama(tmp_path / "in.gguf")) as file:
        quantize(plan_quantize(file, file_type(name)), out, threads=1)
    assert sha256_of(out) == FILES[name]
