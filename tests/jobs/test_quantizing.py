"""Quantizing with calibration: nearer to the reference at the same bytes; importance matrices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llamune.cli._main import run
from llamune.convert import file_type, plan_quantize, quantize, read_importance
from llamune.engine import prompt_logits
from llamune.evaluate import kl_divergence
from llamune.gguf import ModelFile
from tests.tiny import tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model", "qwen2", "F32")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records = [{"instruction": f"spell {n}", "output": f"it is {n * n}"} for n in range(60)]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    return path


def mean_kl(reference: Path, other: Path) -> float:
    """Return the mean KL of a file from its reference on some fixed tokens."""
    ids = [np.random.default_rng(seed).integers(3, 300, 64).tolist() for seed in range(4)]
    pairs = zip(
        prompt_logits(reference, ids, n_threads=1),
        prompt_logits(other, ids, n_threads=1),
        strict=True,
    )
    return float(np.mean([kl_divergence(a, b).mean() for a, b in pairs]))


def test_calibrated_is_nearer_to_the_reference_at_the_same_bytes(
    model: Path, data: Path, tmp_path: Path
) -> None:
    plain, better = tmp_path / "plain.gguf", tmp_path / "better.gguf"
    assert run(["quantize", str(model), str(plain), "--type", "q4_0"]) == 0
    command = ["quantize", str(model), str(better), "--type", "q4_0", "--calibrate", str(data)]
    assert run(command) == 0
    assert better.stat().st_size == plain.stat().st_size
    assert mean_kl(model, better) < mean_kl(model, plain)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model",
        "data.json",
        "plain.gguf",
        "better.gguf",
    }


def test_an_importance_matrix_is_one_that_the_quantizer_takes(
    model: Path, data: Path, tmp_path: Path
) -> None:
    matrix = tmp_path / "imatrix.gguf"
    assert run(["imatrix", str(model), "-o", str(matrix), "--data", str(data)]) == 0
    importance = read_importance(matrix)
    with ModelFile.open(model) as file:
        for name, weights in importance.weights.items():
            assert weights.shape == (1, file.tensors[name].n_columns)
            assert (weights >= 0).all()
        assert "blk.0.ffn_down.weight" in importance.weights
        plan = plan_quantize(file, file_type("iq2_xs"), importance=importance)
        quantize(plan, tmp_path / "small.gguf")
    assert (tmp_path / "small.gguf").stat().st_size == plan.nbytes


def test_the_general_text_alone_will_do(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "general.gguf"
    command = ["quantize", str(model), str(out), "--type", "q4_0", "--calibrate", "general"]
    assert run(command) == 0
    assert out.exists()


def test_data_that_is_missing_stops_before_the_work(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.gguf"
    command = ["quantize", str(model), str(out), "--type", "q4_0", "--calibrate", "nope.json"]
    assert run(command) == 2
    assert "nope.json" in capsys.readouterr().err
    assert not out.exists()
