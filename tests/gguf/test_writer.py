"""Written files: laid out as llama.cpp demands, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamune.errors import LlamuneError
from llamune.gguf import Entry, ModelFile, NewTensor, header_bytes, quant_type, write_gguf


def tensor(name: str, floats: np.ndarray, /, **changes: object) -> NewTensor:
    fields = {"name": name, "shape": floats.shape, "type": quant_type("F32")}
    return NewTensor(**(fields | {"chunks": lambda: [floats]} | changes))


def test_llama_layout_and_the_judge_reads_it(tmp_path: Path) -> None:
    from gguf import GGUFReader

    path = tmp_path / "new.gguf"
    floats = np.arange(30, dtype=np.float32).reshape(2, 3, 5)
    metadata = {"general.architecture": Entry.of("llama"), "general.alignment": Entry.of(64)}
    tensors = [tensor("a", floats), tensor("b.weight", floats[0]), tensor("c", floats[0, 0])]
    counted: list[int] = []
    write_gguf(path, metadata=metadata, tensors=tensors, alignment=64, advance=counted.append)
    assert counted == [120, 60, 20]
    header = len(header_bytes(metadata, tensors, alignment=64))
    assert path.stat().st_size == header + 128 + 64 + 64
    with ModelFile.open(path) as file:
        assert file.warnings == ()
        assert file.alignment == 64
        assert [t.offset for t in file.tensors.values()] == [header, header + 128, header + 192]
        assert file.tensors["a"].shape == (2, 3, 5)
        assert np.array_equal(file.floats("a").reshape(2, 3, 5), floats)
    judge = {t.name: t.data for t in GGUFReader(path).tensors}
    assert np.array_equal(judge["a"], floats)
    assert np.array_equal(judge["c"], floats[0, 0])


def test_chunks_may_come_in_any_size(tmp_path: Path) -> None:
    floats = np.arange(64, dtype=np.float32)
    data = floats.tobytes()
    pieces = [data[:1], memoryview(data)[1:100], bytearray(data[100:]), b""]
    path = tmp_path / "pieces.gguf"
    write_gguf(path, metadata={}, tensors=[tensor("t", floats, chunks=lambda: pieces)])
    with ModelFile.open(path) as file:
        assert np.array_equal(file.floats("t")[0], floats)


@pytest.mark.parametrize("n_bytes", [0, 15, 17])
def test_a_tensor_with_too_few_or_many_bytes_leaves_nothing(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "wrong.gguf"
    floats = np.zeros(4, np.float32)
    with pytest.raises(LlamuneError, match=f"got {n_bytes} bytes of data and needs 16"):
        write_gguf(
            path, metadata={}, tensors=[tensor("t", floats, chunks=lambda: [bytes(n_bytes)])]
        )
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.gguf"
    path.write_bytes(b"old")

    def fails():
        yield bytes(8)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        write_gguf(
            path,
            metadata={},
            tensors=[tensor("t", np.zeros(4, np.float32), chunks=fails)],
            replace=True,
        )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "there.gguf"
    path.write_bytes(b"old")
    with pytest.raises(LlamuneError, match="exists already"):
        write_gguf(path, metadata={}, tensors=[])
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "length that is not allowed"),
        ({"name": "猫" * 22}, "length that is not allowed"),
        ({"shape": ()}, "impossible shape"),
        ({"shape": (1, 1, 1, 1, 4)}, "impossible shape"),
        ({"shape": (0, 4)}, "impossible shape"),
        ({"shape": (33,), "type": quant_type("Q4_0")}, "blocks of 32"),
    ],
)
def test_tensors_that_no_reader_takes_are_refused(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    bad = tensor("t", np.zeros(4, np.float32), **changes)
    with pytest.raises(LlamuneError, match=words):
        write_gguf(tmp_path / "bad.gguf", metadata={}, tensors=[bad])


def test_headers_that_no_reader_takes_are_refused(tmp_path: Path) -> None:
    one = tensor("t", np.zeros(4, np.float32))
    stated = {"general.alignment": Entry.of(64)}
    for words, arguments in {
        "version 1": {"metadata": {}, "tensors": [], "version": 1},
        "alignment 3": {"metadata": {}, "tensors": [], "alignment": 3},
        "says 64": {"metadata": stated, "tensors": []},
        "appears twice": {"metadata": {}, "tensors": [one, one]},
        "metadata key": {"metadata": {"": Entry.of(1)}, "tensors": []},
    }.items():
        with pytest.raises(LlamuneError, match=words):
            write_gguf(tmp_path / "bad.gguf", **arguments)
