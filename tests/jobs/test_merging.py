"""Merging as a job: measured candidates, the default rule, publication, the way back to files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from llamune.adapter import LoraAdapter, LoraPair, WrongBaseError, read_gguf_adapter, write_adapter
from llamune.cli._main import run
from llamune.errors import LlamuneError
from llamune.gguf import ModelFile, quant_type
from llamune.jobs import Candidate, export_adapter, import_adapter, merge
from llamune.jobs.merge_report import recommend
from llamune.jobs.merging import parse_adapter
from llamune.store import publish_model, resolve
from tests.tiny import tiny_model

TARGET = "blk.0.attn_q.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "base", "llama", "Q4_0")


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    records = [{"instruction": f"say {n}", "output": f"number {n}"} for n in range(5)]
    path = tmp_path / "held-out.json"
    path.write_text(json.dumps(records))
    return path


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def adapter_file(folder: Path, base: Path, *, size: float = 0.05) -> Path:
    """Write a GGUF adapter with random weights for one tensor."""
    random = np.random.default_rng(0)
    with ModelFile.open(base) as file:
        rows, columns = file.tensors[TARGET].shape
        pair = LoraPair(
            a=random.normal(size=(4, columns)).astype(np.float32),
            b=random.normal(size=(rows, 4), scale=size).astype(np.float32),
            scale=1.0,
        )
        adapter = LoraAdapter(path=folder, pairs={TARGET: pair})
        path = folder / "adapter.gguf"
        write_adapter(adapter, file, path, base_digest=digest_of(base))
    return path


def types_of(path: Path) -> dict[str, str]:
    with ModelFile.open(path) as file:
        return {name: tensor.type.name for name, tensor in file.tensors.items()}


def test_a_merge_measures_both_types_and_writes_one_file(
    base: Path, held_out: Path, tmp_path: Path
) -> None:
    before = base.read_bytes()
    adapter = adapter_file(tmp_path, base, size=2e-4)
    report = merge(str(base), [str(adapter)], out=tmp_path / "m.gguf", data=[held_out], n_threads=1)
    assert [one.type for one in report.candidates] == ["own", "Q8_0"]
    own, fine = report.candidates
    assert fine.kept > 0.9 > own.kept
    assert 0 <= fine.kl < 1e-3  # the floor of llama.cpp's own rounding of activations
    assert fine.held_out == pytest.approx(report.held_out.adapter, abs=0.02)
    assert own.bytes < fine.bytes
    assert report.path == tmp_path / "m.gguf"
    assert report.bytes == report.path.stat().st_size
    assert report.tensors == 1
    assert base.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "base", "held-out.json", "adapter.gguf", "m.gguf"
    }  # fmt: skip
    with ModelFile.open(report.path) as file:
        assert file.metadata.text("llamune.base.digest") == digest_of(base)
        assert file.metadata.strings("llamune.merged.adapters") == ["adapter.gguf@1"]


def test_the_json_has_the_keys_that_are_promised(
    base: Path, held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_file(tmp_path, base)
    common = ["merge", str(base), f"{adapter}@0.5", "--json"]
    assert run([*common, "-o", str(tmp_path / "m.gguf"), "--data", str(held_out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"base", "adapter", "merged"} == report["held_out"].keys()
    assert report["kl"] >= 0
    assert report["bytes"] == (tmp_path / "m.gguf").stat().st_size
    assert {"type", "round", "held_out", "kl", "bytes"} <= report["candidates"][0].keys()
    assert run([*common, "-o", str(tmp_path / "n.gguf"), "--no-measure"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["held_out"] == {"base": None, "adapter": None, "merged": None}
    assert report["kl"] is None


@pytest.mark.parametrize(("kind", "expected"), [("own", "Q4_0"), ("q8_0", "Q8_0"), ("F16", "F16")])
def test_the_type_is_the_persons_choice(
    base: Path, tmp_path: Path, kind: str, expected: str
) -> None:
    adapter = adapter_file(tmp_path, base)
    merge(str(base), [str(adapter)], out=tmp_path / "m.gguf", type=kind, measure=False)
    before, after = types_of(base), types_of(tmp_path / "m.gguf")
    assert after[TARGET] == expected
    assert {name: kind for name, kind in after.items() if name != TARGET} == {
        name: kind for name, kind in before.items() if name != TARGET
    }


def candidate(kind: str, *, gain: float | None, kept: float | None) -> Candidate:
    return Candidate(
        type=kind, round="nearest", bytes=1, held_out=None, kl=None, kept=kept, gain=gain
    )


@pytest.mark.parametrize(
    ("gain", "kept", "expected"),
    [(0.81, 0.1, "own"), (0.79, 0.9, "Q8_0"), (None, 0.81, "own"), (None, 0.5, "Q8_0"),
     (None, None, "own"), (-0.2, 0.9, "Q8_0")],
)  # fmt: skip
def test_the_default_is_the_bases_types_if_they_keep_four_fifths(
    gain: float | None, kept: float | None, expected: str
) -> None:
    both = [candidate("own", gain=gain, kept=kept), candidate("Q8_0", gain=1.0, kept=1.0)]
    assert recommend(both).type == expected


def test_a_base_that_is_fine_enough_is_merged_once(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "llama", "F16")
    report = merge(
        str(base), [str(adapter_file(tmp_path, base))], out=tmp_path / "m.gguf", measure=False
    )
    assert [one.type for one in report.candidates] == ["own"]


def test_an_adapter_of_another_base_is_refused_unless_forced(base: Path, tmp_path: Path) -> None:
    adapter = adapter_file(tmp_path, base)
    other = tiny_model(tmp_path / "other", "llama", "Q8_0")
    with pytest.raises(WrongBaseError):
        merge(str(other), [str(adapter)], out=tmp_path / "m.gguf", measure=False)
    assert not (tmp_path / "m.gguf").exists()
    merge(str(other), [str(adapter)], out=tmp_path / "m.gguf", measure=False, force=True)


def test_nothing_is_replaced_and_nothing_is_left_behind(base: Path, tmp_path: Path) -> None:
    adapter = adapter_file(tmp_path, base)
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(LlamuneError, match="exists"):
        merge(str(base), [str(adapter)], out=tmp_path / "m.gguf", measure=False)
    assert (tmp_path / "m.gguf").read_text() == "mine"
    for arguments in [{}, {"out": tmp_path / "n.gguf", "type": "Q99"}]:
        with pytest.raises(LlamuneError):
            merge(str(base), [str(adapter)], measure=False, **arguments)
    with pytest.raises(LlamuneError, match="no adapter of its own"):
        merge(str(base), out=tmp_path / "n.gguf", measure=False)
    assert not list(tmp_path.glob(".llamune*"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", ("a", 1.0)), ("a@0.5", ("a", 0.5)), ("ns/a:tag@-2", ("ns/a:tag", -2.0))],
)
def test_factors_stand_behind_the_name(text: str, expected: tuple[str, float]) -> None:
    assert parse_adapter(text) == expected


def test_a_factor_that_is_no_number_is_said(tmp_path: Path) -> None:
    with pytest.raises(LlamuneError, match="factor"):
        parse_adapter("a@lot")
    (tmp_path / "odd@name").mkdir()
    assert parse_adapter(str(tmp_path / "odd@name")) == (str(tmp_path / "odd@name"), 1.0)


# -- import, export, names -----------------------------------------------------------------------


def test_an_adapter_goes_into_the_library_and_out_again_both_ways(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_model("tiny", base)
    original = read_gguf_adapter(adapter_file(tmp_path, base))
    command = ["adapter", "import", str(tmp_path / "adapter.gguf"), "--base", "tiny"]
    assert run([*command, "--name", "tuned"]) == 0
    assert capsys.readouterr().out == "tuned:latest\n"
    model = resolve("tuned")
    assert model.digest == resolve("tiny").digest  # one copy of the base
    assert model.annotations["llamune.base.digest"] == digest_of(base)
    assert run(["adapter", "export", "tuned", str(tmp_path / "peft")]) == 0
    assert run(["adapter", "export", "tuned", str(tmp_path / "again.gguf")]) == 0
    again = read_gguf_adapter(tmp_path / "again.gguf")
    back = import_adapter(tmp_path / "peft", "tiny", name="back")
    third = read_gguf_adapter(back.adapters[0].path)
    for other in (again, third):
        assert other.base_digest == digest_of(base)
        np.testing.assert_allclose(
            other.pairs[TARGET].change(), original.pairs[TARGET].change(), rtol=1e-5, atol=1e-6
        )
    assert run(["adapter", "export", "tuned", str(tmp_path / "peft")]) == 2
    assert "exists" in capsys.readouterr().err


def test_a_tuned_model_is_merged_by_its_name_alone(base: Path, tmp_path: Path) -> None:
    publish_model("tiny", base)
    import_adapter(adapter_file(tmp_path, base), "tiny", name="tuned")
    report = merge("tuned", name="whole", type="Q8_0", measure=False)
    assert report.name == "whole:latest"
    assert report.path is None
    model = resolve("whole")
    assert not model.adapters
    assert model.annotations["llamune.merged.type"] == "Q8_0"
    assert types_of(model.path)[TARGET] == quant_type("Q8_0").name


def test_a_file_alone_does_not_say_its_base(base: Path, tmp_path: Path) -> None:
    adapter = adapter_file(tmp_path, base)
    with pytest.raises(LlamuneError, match="which base"):
        export_adapter(str(adapter), tmp_path / "peft")
    export_adapter(str(adapter), tmp_path / "peft", base=str(base))
    assert (tmp_path / "peft/adapter_config.json").is_file()


def test_compensation_comes_closer_than_nearest_at_the_same_bytes(
    base: Path, held_out: Path, tmp_path: Path
) -> None:
    records = [{"instruction": f"count to {n}", "output": "one, two, three"} for n in range(40)]
    training = tmp_path / "training.json"
    training.write_text(json.dumps(records))
    adapter = adapter_file(tmp_path, base, size=2e-3)
    report = merge(
        str(base),
        [str(adapter)],
        out=tmp_path / "m.gguf",
        calibrate=[training],
        data=[held_out],
        n_threads=1,
    )
    nearest, compensated, _ = report.candidates
    assert [(one.type, one.round) for one in report.candidates] == [
        ("own", "nearest"), ("own", "compensated"), ("Q8_0", "nearest")
    ]  # fmt: skip
    assert compensated.bytes == pytest.approx(nearest.bytes, abs=128)  # the lineage names it
    assert compensated.kl < nearest.kl
    with ModelFile.open(base) as old, ModelFile.open(tmp_path / "m.gguf") as new:
        for name, tensor in old.tensors.items():
            assert name == TARGET or new.tensors[name].type == tensor.type
            assert name == TARGET or np.array_equal(new.packed(name), old.packed(name))


def test_compensation_that_was_asked_for_needs_data(base: Path, tmp_path: Path) -> None:
    adapter = adapter_file(tmp_path, base)
    with pytest.raises(LlamuneError, match="no training data to calibrate on"):
        merge(str(base), [str(adapter)], out=tmp_path / "m.gguf", round="compensated")


def test_nearest_is_said_to_lose_where_there_is_nothing_to_calibrate_on(
    base: Path, tmp_path: Path
) -> None:
    steps: list[str] = []
    adapter = adapter_file(tmp_path, base)
    merge(str(base), [str(adapter)], out=tmp_path / "m.gguf", measure=False, on_step=steps.append)
    assert any("rounding to nearest, which loses" in step for step in steps)
