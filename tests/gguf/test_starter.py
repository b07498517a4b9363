"""The starter model, read and written back, with gguf-py's reader as the judge."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llamune.files import sha256_of
from llamune.gguf import ModelFile, NewTensor, write_gguf


@pytest.fixture(scope="module")
def starter(starter_path: Path) -> Iterator[ModelFile]:
    with ModelFile.open(starter_path) as file:
        yield file


@pytest.fixture(scope="module")
def judge(starter_path: Path):
    from gguf import GGUFReader

    return GGUFReader(starter_path)


def copies(file: ModelFile) -> list[NewTensor]:
    return [
        NewTensor(name, info.shape, info.type, lambda name=name: [file.packed(name)])
        for name, info in file.tensors.items()
    ]


def test_written_back_it_is_the_same_file(
    starter: ModelFile, starter_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy.gguf"
    write_gguf(
        out,
        metadata={key: starter.metadata.entry(key) for key in starter.metadata},
        tensors=copies(starter),
        alignment=starter.alignment,
        version=starter.version,
    )
    assert sha256_of(out) == sha256_of(starter_path)


def test_metadata_is_what_the_judge_reads(starter: ModelFile, judge) -> None:
    wanted = {
        key: field.contents() for key, field in judge.fields.items() if not key.startswith("GGUF.")
    }
    assert list(starter.metadata) == list(wanted)
    for key, value in wanted.items():
        found = starter.metadata[key]
        assert (list(found) if isinstance(value, list) else found) == value, key


def test_tensors_are_where_the_judge_finds_them(starter: ModelFile, judge) -> None:
    assert list(starter.tensors) == [tensor.name for tensor in judge.tensors]
    for tensor in judge.tensors:
        found = starter.tensors[tensor.name]
        assert found.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (found.type.id, found.offset, found.nbytes) == (
            tensor.tensor_type,
            tensor.data_offset,
            tensor.n_bytes,
        )


def test_packed_rows_are_the_file_bytes(starter: ModelFile, starter_path: Path) -> None:
    info = starter.tensors["blk.3.ffn_down.weight"]
    data = starter_path.read_bytes()[info.offset : info.offset + info.nbytes]
    rows = starter.packed("blk.3.ffn_down.weight")
    assert rows.shape == (576, 1536 // 32 * 20)
    assert rows.tobytes() == data
    assert not rows.flags.writeable
    assert starter.packed("blk.3.ffn_down.weight", 5, 7).tobytes() == rows[5:7].tobytes()


def test_floats_are_what_the_judge_unpacks(starter: ModelFile, judge) -> None:
    from gguf.quants import dequantize

    for tensor in (judge.tensors[0], judge.tensors[1], judge.tensors[2]):
        wanted = dequantize(tensor.data, tensor.tensor_type)
        found = starter.floats(tensor.name)
        assert np.array_equal(found, np.atleast_2d(wanted))


def test_without_a_map_everything_reads_the_same(starter: ModelFile, starter_path: Path) -> None:
    with ModelFile.open(starter_path, mapped=False) as file:
        assert file.tensors == starter.tensors
        name = "blk.29.attn_k.weight"
        assert np.array_equal(file.packed(name), starter.packed(name))
        assert np.array_equal(file.floats(name, 3, 9), starter.floats(name)[3:9])


def test_nothing_of_it_is_odd(starter: ModelFile) -> None:
    assert starter.warnings == ()


def test_single_texts_of_an_array_are_those_of_the_whole(starter: ModelFile) -> None:
    key = "tokenizer.ggml.tokens"
    whole = starter.metadata.strings(key)
    chance = random.Random(5)
    for number in (0, 1, 40):
        places = [chance.randrange(len(whole)) for _ in range(number)] + [0, len(whole) - 1]
        found = starter.metadata.strings_at(key, [*places, -1, len(whole)])
        assert found == {place: whole[place] for place in places}
