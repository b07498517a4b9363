"""The figures of a tensor against numpy's own, for every type and across slabs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamune.anatomy import numbers, tensor_numbers
from llamune.gguf import GgufError, ModelFile, NewTensor, quant_type, write_gguf


def write(path: Path, floats: np.ndarray, kind: str = "F32") -> Path:
    data = floats.astype({"F32": "<f4", "F64": "<f8", "I32": "<i4"}[kind])
    new = NewTensor("t", floats.shape, quant_type(kind), lambda: [data])
    write_gguf(path, metadata={}, tensors=[new])
    return path


@pytest.mark.parametrize("kind", ["F32", "F64", "I32"])
@pytest.mark.parametrize("slab", [1, 7, 1 << 20])
def test_figures_are_numpys(
    tmp_path: Path, kind: str, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "SLAB_ELEMENTS", slab)
    floats = np.random.default_rng(0).normal(3, 50, (13, 5)).round()
    with ModelFile.open(write(tmp_path / "t.gguf", floats, kind)) as file:
        found = tensor_numbers(file, "t")
    assert found.first == tuple(floats.ravel()[:8])
    assert (found.minimum, found.maximum) == (floats.min(), floats.max())
    assert found.mean == pytest.approx(floats.mean())
    assert found.std == pytest.approx(floats.std())
    assert found.n_zero == (floats == 0).sum()
    assert found.counts == tuple(np.histogram(floats, found.edges)[0])
    assert sum(found.counts) == floats.size


def test_what_is_no_number_is_counted_and_left_out(tmp_path: Path) -> None:
    floats = np.array([[1, np.nan, np.inf], [-np.inf, 3, 0]])
    with ModelFile.open(write(tmp_path / "t.gguf", floats)) as file:
        found = tensor_numbers(file, "t")
    assert (found.n_not_finite, found.minimum, found.maximum) == (3, 0, 3)
    assert found.mean == pytest.approx(4 / 3)
    assert sum(found.counts) == 3


@pytest.mark.parametrize("value", [np.nan, 5.0])
def test_tensors_without_spread_have_no_histogram(tmp_path: Path, value: float) -> None:
    with ModelFile.open(write(tmp_path / "t.gguf", np.full((2, 2), value))) as file:
        found = tensor_numbers(file, "t")
    assert found.counts == ()
    assert np.isnan(found.mean) == np.isnan(value)


def test_an_unknown_tensor_is_named(starter_path: Path) -> None:
    with ModelFile.open(starter_path) as file, pytest.raises(GgufError, match="no tensor 'nope'"):
        tensor_numbers(file, "nope")
