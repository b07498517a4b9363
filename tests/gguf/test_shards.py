"""Split models open as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamune.gguf import Entry, GgufError, ModelFile, NewTensor, ValueType, quant_type, write_gguf


def shard(
    folder: Path, number: int, count: int, *, names: list[str], total: int, prefix: str = ""
) -> Path:
    path = folder / f"model-{number + 1:05d}-of-{count:05d}.gguf"
    metadata = {
        f"{prefix}split.no": Entry.of(number, ValueType.U16),
        f"{prefix}split.count": Entry.of(count, ValueType.U16),
        f"{prefix}split.tensors.count": Entry.of(total, ValueType.I32),
    }
    if number == 0:
        metadata = {"general.architecture": Entry.of("llama"), **metadata}
    tensors = [
        NewTensor(name, (2, 4), quant_type("F32"), lambda name=name: [floats_of(name)])
        for name in names
    ]
    write_gguf(path, metadata=metadata, tensors=tensors, replace=True)
    return path


def floats_of(name: str) -> np.ndarray:
    return np.full((2, 4), len(name), np.float32)


@pytest.mark.parametrize("prefix", ["", "llama."], ids=["llama.cpp", "Ollama"])
def test_the_first_shard_finds_the_others(tmp_path: Path, prefix: str) -> None:
    for number, names in enumerate((["a", "bb"], [], ["ccc"])):
        shard(tmp_path, number, 3, names=names, total=3, prefix=prefix)
    for first in (1, 2):  # any shard leads to all
        with ModelFile.open(tmp_path / f"model-{first:05d}-of-00003.gguf") as file:
            assert file.architecture == "llama"
            assert list(file.tensors) == ["a", "bb", "ccc"]
            assert [info.shard for info in file.tensors.values()] == [0, 0, 2]
            assert np.array_equal(file.floats("ccc"), floats_of("ccc"))
            assert file.size == sum(path.stat().st_size for path in tmp_path.iterdir())
            assert len(file.paths) == 3


def test_shards_under_other_names_are_given_in_order(tmp_path: Path) -> None:
    paths = [shard(tmp_path, number, 2, names=["x" * (number + 1)], total=2) for number in (0, 1)]
    blobs = [path.rename(tmp_path / f"sha256-{number}") for number, path in enumerate(paths)]
    with ModelFile.open(blobs) as file:
        assert list(file.tensors) == ["x", "xx"]
    with pytest.raises(GgufError, match="is shard 1, expected 0"):
        ModelFile.open(blobs[::-1])
    with pytest.raises(GgufError, match="belongs to a model of 2 files, but 1 are given"):
        ModelFile.open(blobs[0])


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path, 0, 2, names=["a"], total=2)
    with pytest.raises(GgufError) as caught:
        ModelFile.open(path)
    assert caught.value.path.name == "model-00002-of-00002.gguf"
    assert caught.value.rule == "readable"


def test_shards_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = shard(tmp_path, 0, 2, names=["a"], total=3)
    shard(tmp_path, 1, 2, names=["b"], total=3)
    with pytest.raises(GgufError, match=r"hold 2 tensors, split\.tensors\.count says 3"):
        ModelFile.open(path)
    shard(tmp_path, 0, 2, names=["a"], total=2)
    shard(tmp_path, 1, 2, names=["a"], total=2)
    with pytest.raises(GgufError, match="'a' is in another shard too"):
        ModelFile.open(path)


@pytest.mark.parametrize("name", ["m-00000-of-00002.gguf", "m-00003-of-00002.gguf"])
def test_impossible_numbers_in_the_name_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(GgufError, match="number in the name is impossible"):
        ModelFile.open(tmp_path / name)
