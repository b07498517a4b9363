"""Importance matrices in both formats, whole and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from llamune.convert import read_importance
from llamune.errors import LlamuneError
from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf

from .models import tensor

NAME = "blk.0.ffn_up.weight"


def gguf_matrix(path: Path, sums: np.ndarray, counts: np.ndarray | None) -> Path:
    tensors = [NewTensor(f"{NAME}.in_sum2", sums.shape, quant_type("F32"), lambda: [sums])]
    if counts is not None:
        tensors.append(
            NewTensor(f"{NAME}.counts", counts.shape, quant_type("F32"), lambda: [counts])
        )
    metadata = {
        "general.type": Entry.of("imatrix"),
        "imatrix.datasets": Entry.of(["a.txt"]),
        "imatrix.chunk_count": Entry.of(12),
    }
    write_gguf(path, metadata=metadata, tensors=tensors)
    return path


def legacy(*entries: tuple[str, int, list[float]], tail: bytes = b"") -> bytes:
    data = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack(f"<ii{len(values)}f", calls, len(values), *values)
    return data + tail


def test_gguf_sums_become_means(tmp_path: Path) -> None:
    sums = np.array([[2, 4], [9, 9]], np.float32)
    counts = np.array([[2], [0]], np.float32)
    matrix = read_importance(gguf_matrix(tmp_path / "m.gguf", sums, counts))
    assert matrix.weights[NAME].tolist() == [[1, 2], [1, 1]]
    assert (matrix.datasets, matrix.n_chunks) == (("a.txt",), 12)


def test_the_older_format_divides_by_calls(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    tail = struct.pack("<ii", 3, 5) + b"b.txt"
    path.write_bytes(legacy((NAME, 4, [8, 2]), ("other", 0, [5]), tail=tail))
    matrix = read_importance(path)
    assert matrix.weights[NAME].tolist() == [2, 0.5]
    assert matrix.weights["other"].tolist() == [5]
    assert (matrix.datasets, matrix.n_chunks) == (("b.txt",), 3)


def test_every_cut_of_the_older_format_is_an_error(tmp_path: Path) -> None:
    whole = legacy((NAME, 4, [8, 2]), ("other", 1, [5]))
    path = tmp_path / "cut.dat"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(LlamuneError, match="not a whole importance matrix"):
            read_importance(path)


@pytest.mark.parametrize("where", [0, 4, 4 + 4 + len(NAME) + 4])
@pytest.mark.parametrize("value", [-1, 0, 2**31 - 1])
def test_lies_in_the_older_format_are_errors(tmp_path: Path, where: int, value: int) -> None:
    data = bytearray(legacy((NAME, 4, [8, 2])))
    data[where : where + 4] = struct.pack("<i", value)
    path = tmp_path / "lie.dat"
    path.write_bytes(data)
    with pytest.raises(LlamuneError):
        read_importance(path)


def test_what_is_no_importance_matrix_is_refused(tmp_path: Path) -> None:
    sums = np.ones((2, 3), np.float32)
    cases = {
        "sums and no counts": gguf_matrix(tmp_path / "a.gguf", sums, None),
        "do not fit its counts": gguf_matrix(tmp_path / "b.gguf", sums, np.ones(4, np.float32)),
        "is not finite": gguf_matrix(tmp_path / "c.gguf", sums * np.nan, np.ones(1, np.float32)),
    }
    for words, path in cases.items():
        with pytest.raises(LlamuneError, match=words):
            read_importance(path)
    with pytest.raises(LlamuneError, match="No such file"):
        read_importance(tmp_path / "none")


def test_a_matrix_of_another_model_is_refused(tmp_path: Path) -> None:
    sums = np.ones((1, 3), np.float32)
    matrix = read_importance(gguf_matrix(tmp_path / "m.gguf", sums, np.ones((1, 1), np.float32)))
    path = tmp_path / "model.gguf"
    write_gguf(path, metadata={}, tensors=[tensor(NAME, (2, 4)), tensor("b", (2, 4))])
    with ModelFile.open(path) as file:
        with pytest.raises(LlamuneError, match="needs 4"):
            matrix.of(file.tensors[NAME])
        assert matrix.of(file.tensors["b"]) is None
