"""Quantizing with calibration: nearer to the reference at the same bytes; importance matrices."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gguf
from llamune.cli._main import run
from llamune.convert import file_type, plan_quantize, quantize, read_importance
from llamune.engine import prompt_logits
from llamune.evaluate import kl_divergence
from llamune.gguf import ModelFile
from llamune.jobs import Opened, fit_plan, gains_text, opened, rounding_for_plan
from llamune.jobs.calibrating import texts_of_files
from llamune.store import home
from tests.tiny import tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model", "qwen2", "F32")


def write_records(path: Path, numbers: range) -> Path:
    """Write records of one kind, each about another number."""
    records = [{"instruction": f"spell {n}", "output": f"it is {n * n}"} for n in numbers]
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_records(tmp_path / "data.json", range(0, 300, 2))


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """More of the same kind: what calibration promises to be good for."""
    return write_records(tmp_path / "held-out.json", range(1, 30, 2))


def mean_kl(reference: Path, other: Path, held_out: Path) -> float:
    """Return the mean KL of a file from its reference on held-out text."""
    with opened(str(reference)) as base:
        ids = texts_of_files([held_out], base)
    pairs = zip(
        prompt_logits(reference, ids, n_threads=1),
        prompt_logits(other, ids, n_threads=1),
        strict=True,
    )
    return float(np.mean([kl_divergence(a, b).mean() for a, b in pairs]))


def test_calibrated_is_nearer_to_the_reference_at_the_same_bytes(
    model: Path, data: Path, held_out: Path, tmp_path: Path
) -> None:
    plain, better = tmp_path / "plain.gguf", tmp_path / "better.gguf"
    assert run(["quantize", str(model), str(plain), "--type", "q4_0"]) == 0
    command = ["quantize", str(model), str(better), "--type", "q4_0", "--calibrate", str(data)]
    assert run(command) == 0
    assert better.stat().st_size == plain.stat().st_size
    assert mean_kl(model, better, held_out) < 0.7 * mean_kl(model, plain, held_out)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model",
        "data.json",
        "held-out.json",
        "plain.gguf",
        "better.gguf",
    }


def test_an_importance_matrix_is_one_that_the_quantizer_takes(
    model: Path, data: Path, tmp_path: Path
) -> None:
    matrix = tmp_path / "imatrix.gguf"
    assert run(["imatrix", str(model), "-o", str(matrix), "--data", str(data)]) == 0
    judge = gguf.GGUFReader(matrix)  # names as llama.cpp's loader asks for them
    assert judge.fields[gguf.Keys.General.TYPE].contents() == gguf.GGUFType.IMATRIX
    assert judge.fields[gguf.Keys.IMatrix.DATASETS].contents() == [data.name]
    n_chunks = judge.fields[gguf.Keys.IMatrix.CHUNK_COUNT].contents()
    chunk = judge.fields[gguf.Keys.IMatrix.CHUNK_SIZE].contents()
    sums = {tensor.name: tensor for tensor in judge.tensors}
    assert sums["blk.0.ffn_down.weight.counts"].data.item() == n_chunks * chunk
    assert sums["blk.0.ffn_down.weight.in_sum2"].data.shape == (1, 512)
    importance = read_importance(matrix)
    with ModelFile.open(model) as file:
        for name, weights in importance.weights.items():
            assert weights.shape == (1, file.tensors[name].n_columns)
            assert (weights >= 0).all()
        assert "blk.0.ffn_down.weight" in importance.weights
        assert plan_quantize(file, file_type("q2_k_s")).needs_importance
        plan = plan_quantize(file, file_type("q2_k_s"), importance=importance)
        quantize(plan, tmp_path / "small.gguf")
    assert (tmp_path / "small.gguf").stat().st_size == plan.nbytes


@pytest.mark.skipif(
    shutil.which("llama-quantize") is None,
    reason="llama.cpp's own quantizer, llama-quantize, is not on the PATH",
)
@pytest.mark.parametrize("kind", ["q4_k_m", "iq2_xs"])
def test_llama_quantize_makes_the_same_blocks_from_the_matrix(
    kind: str, model: Path, data: Path, tmp_path: Path
) -> None:
    matrix, theirs, ours = (tmp_path / name for name in ("matrix.gguf", "theirs.gguf", "ours.gguf"))
    assert run(["imatrix", str(model), "-o", str(matrix), "--data", str(data)]) == 0
    judge = ["llama-quantize", "--imatrix", str(matrix), str(model), str(theirs), kind, "1"]
    subprocess.run(judge, check=True, capture_output=True)
    command = ["quantize", str(model), str(ours), "--type", kind, "--imatrix", str(matrix)]
    assert run(command) == 0
    blocks = [
        {one.name: (one.tensor_type, one.data.tobytes()) for one in gguf.GGUFReader(path).tensors}
        for path in (theirs, ours)
    ]
    assert blocks[0] == blocks[1]


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


def test_the_cost_comes_first_and_the_gain_of_each_tensor_last(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.gguf"
    command = ["quantize", str(model), "--type", "q4_0", "--calibrate", str(data)]
    assert run([*command, "--dry-run"]) == 0
    assert "tokens: about" in capsys.readouterr().err
    assert run([*command, str(out), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err.index("tokens: about") < shown.err.index("layer 3 of 3")
    assert "ffn_down to Q4_0: output error" in shown.err
    rounding = json.loads(shown.out)["rounding"]
    assert {one["name"] for one in rounding} >= {"blk.0.attn_q.weight", "output.weight"}
    assert all(one["error"] <= one["nearest_error"] * (1 + 1e-5) for one in rounding)


def test_a_stopped_pass_is_taken_up_by_the_next_command(
    model: Path, data: Path, tmp_path: Path
) -> None:
    class StopError(Exception):
        pass

    def stop(step: str) -> None:
        if "layer 2" in step:
            raise StopError

    kept = home() / "cache" / "rounding"
    with opened(str(model)) as base:
        plan = plan_quantize(base.file, file_type("q4_0"))
        with pytest.raises(StopError):
            rounding_for_plan(base, plan, [data], on_step=stop)
        (folder,) = kept.iterdir()
        before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
        assert before
        rounding = rounding_for_plan(base, plan, [data])
        after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
        assert before.items() < after.items()  # nothing was rounded a second time
        rounding.discard()
    assert not list(kept.iterdir())


def test_what_cannot_be_compensated_is_said() -> None:
    from llamune.calibrate import TensorGain

    good = TensorGain("blk.0.ffn_up.weight", "Q4_K", 0.05, 0.1, 0.01, 0)
    singular = TensorGain("blk.1.ffn_up.weight", "Q4_K", 0.1, 0.1, 0.0, 2)
    lines = gains_text([good, singular])
    assert lines[0] == "ffn_up to Q4_K: output error 7.50%, to nearest 10.00% (mean of 2)"
    assert "blk.1" in lines[1]
    assert "nothing to compensate with" in lines[1]
    assert "never used" in lines[2]


def test_types_are_chosen_within_a_size(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelFile.open(model) as file:
        budget = plan_quantize(file, file_type("q4_k_m")).nbytes
    out = tmp_path / "fit.gguf"
    size = f"{budget / 1e6:.4f}MB"
    command = ["quantize", str(model), str(out), "--fit", size, "--calibrate", str(data)]
    assert run([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0.97 * budget < out.stat().st_size <= budget
    assert out.stat().st_size == report["bytes"]
    assert len(set(report["tensors"].values())) > 1
    for mix in report["fit"]["standard"]:
        assert mix["best_loss"] <= mix["loss"] * (1 + 1e-3)
    beside = {mix["name"]: mix for mix in report["fit"]["standard"]}
    assert beside["Q4_K_M"]["best_loss"] < 0.9 * beside["Q4_K_M"]["loss"]


@pytest.mark.slow
def test_more_bytes_are_predicted_to_lose_less(model: Path) -> None:
    with opened(str(model)) as base:
        fits = [fit_plan(base, size, []) for size in sizes_between(base)]
    losses = [fit.loss for fit in fits]
    assert losses == sorted(losses, reverse=True)


def sizes_between(base: Opened) -> list[int]:
    """Return three sizes from Q3_K_S to Q6_K."""
    low, high = (plan_quantize(base.file, file_type(kind)).nbytes for kind in ("q3_k_s", "q6_k"))
    return [low, (low + high) // 2, high]


def test_tensors_quantized_before_keep_their_types_in_a_size(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed, out = tmp_path / "mixed.gguf", tmp_path / "fit.gguf"
    down = "blk.0.ffn_down.weight"
    one = ["--tensor-type", "blk\\.0\\.ffn_down=q5_1"]
    assert run(["quantize", str(model), str(mixed), "--type", "copy", *one]) == 0
    with ModelFile.open(mixed) as file:
        budget = plan_quantize(file, file_type("q4_k_m")).nbytes
    size = ["--fit", f"{1.1 * budget / 1e6:.4f}MB"]
    assert run(["quantize", str(mixed), str(out), *size]) == 0
    with ModelFile.open(mixed) as before, ModelFile.open(out) as after:
        assert after.tensors[down].type.name == "Q5_1"
        assert np.array_equal(after.floats(down), before.floats(down))
        assert after.size < before.size / 2
    capsys.readouterr()
    whole = tmp_path / "q4.gguf"
    assert run(["quantize", str(model), str(whole), "--type", "q4_0", "--pure"]) == 0
    for size, said in (("1KB", "keep their types"), ("1GB", "no tensor has a smaller type")):
        assert run(["quantize", str(whole), str(tmp_path / "x.gguf"), "--fit", size]) == 2
        assert said in capsys.readouterr().err
    smaller = ["--fit", f"{0.8 * whole.stat().st_size / 1e6:.4f}MB", "--requantize"]
    assert run(["quantize", str(whole), str(tmp_path / "y.gguf"), *smaller]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fit", "1KB"], "smallest types take"),
        (["--fit", "much"], "no size"),
        (["--fit", "1GB", "--type", "q4_0"], "chooses the types itself"),
    ],
)
def test_a_size_that_cannot_be_is_refused(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    out = tmp_path / "x.gguf"
    assert run(["quantize", str(model), str(out), *options]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
