"""`tune --method full` on a tiny model: from a 4-bit file to a proven whole file."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from llamune.errors import LlamuneError
from llamune.files import sha256_of
from llamune.gguf import ModelFile
from llamune.jobs import JobEvent, Settled, opened, resume, tune
from llamune.jobs.following import measured_compute
from llamune.jobs.full_tuning import bytes_needed
from llamune.jobs.preparing import prepare_training
from llamune.runs import RecipeError, Run, check_choices
from llamune.store import resolve
from llamune.train import StepDone, Team
from tests.tiny import tiny_model

QUICK: dict[str, Any] = {
    "method": "full", "steps": 16, "batch": 8, "evaluations": 2, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def four_bit_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), "llama", "Q4_K")


def full_choices(base: Path, data: Path) -> dict[str, Any]:
    asked = {"base": str(base), "name": "colours", "data": data, "method": "full"}
    return check_choices(asked, where="a test")


def test_from_a_four_bit_file_to_a_published_whole_file(
    four_bit_base: Path, examples: Path
) -> None:
    before = sha256_of(four_bit_base)
    events: list[JobEvent] = []
    run = tune(str(four_bit_base), data=examples, name="colours", on_event=events.append, **QUICK)
    record = run.record
    assert record.state == "done"
    assert record.base is not None
    assert (
        record.base.sha256_before == record.base.sha256_after == before == sha256_of(four_bit_base)
    )
    assert record.loss.validation < record.loss.validation_before  # type: ignore[operator]
    assert record.proof is not None
    assert record.proof["verdict"] == "pass", record.proof["reasons"]
    model = resolve("colours")
    assert not model.adapters
    # what is served is, byte for byte, what training wrote
    assert model.path.read_bytes() == run.model_gguf.read_bytes()
    with ModelFile.open(model.path) as file:
        assert file.tensors["blk.0.ffn_up.weight"].type.name == "Q8_0"
        assert file.metadata["llamune.run"] == "colours:latest#1"
    assert not (run.folder / "start.gguf").exists()
    assert record.rounding is not None
    assert record.rounding.measured == pytest.approx(record.rounding.predicted, rel=0.5)
    report = run.report_path.read_text()
    assert "every layer's weights in Q8_0 blocks" in report
    assert "what rounding adds to a weight in Q8_0" in report
    settled = next(event for event in events if isinstance(event, Settled))
    assert any(line.startswith("rounding") for line in settled.lines)


def test_a_stopped_run_goes_on(tiny_base: Path, examples: Path) -> None:
    def interrupt(event: JobEvent) -> None:
        if isinstance(event, StepDone) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    run = tune(str(tiny_base), data=examples, name="colours", on_event=interrupt, **QUICK)
    assert run.record.state == "stopped"
    assert run.record.files["paused_model"].is_file()
    assert resume("colours").record.state == "done"
    assert resolve("colours").path.read_bytes() == run.model_gguf.read_bytes()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"keep_type": "Q4_K"}, "keep_type: Input should be 'Q8_0', 'BF16' or 'Q6_K'"),
        ({"optimizer": "adamw"}, "packed weights are trained by factored or adamw8"),
        ({"micro_batch": 2}, "a step is one micro-batch"),
        ({"compute_type": "float16"}, "gradients of whole weights leave its range"),
    ],
)
def test_what_is_refused_leaves_no_run(
    tiny_base: Path, examples: Path, choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(LlamuneError, match=message):
        tune(str(tiny_base), **{"data": examples, "name": "colours", **QUICK, **choices})
    assert Run.all() == []


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does(
    tiny_base: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()._replace(total=1_200_000_000, available=900_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    choices = full_choices(tiny_base, examples)
    with opened(str(tiny_base)) as base:
        with pytest.raises(RecipeError) as refused:
            prepare_training(base, {**choices, "batch": 5000}, measure=measured_compute)
        found = re.search(r"the largest that fits is (\d+)", refused.value.message)
        assert found is not None
        largest = int(found[1])
        assert 1 <= largest < 5000
        fitting = prepare_training(base, {**choices, "batch": largest}, measure=measured_compute)
        assert fitting.plan.fits
        assert fitting.recipe.micro_batch == largest
        usual = prepare_training(base, choices, measure=measured_compute)
        assert usual.recipe.batch <= largest


def test_processes_that_share_weights_need_less_each(tiny_base: Path, examples: Path) -> None:
    choices = full_choices(tiny_base, examples)
    with opened(str(tiny_base)) as base:
        dense, packed = (
            prepare_training(base, {**choices, "dense": dense}, measure=measured_compute)
            for dense in (True, False)
        )
    parts = {part.key: part.nbytes for part in dense.plan.memory.parts}
    shared = parts["weights"] + parts["gradients"] + parts["optimizer"]
    alone = bytes_needed(dense, Team())
    assert alone == dense.plan.memory.total_bytes
    # on two machines each holds half of what is shared; on one, both halves and the rest twice
    apart = bytes_needed(dense, Team(size=2))
    assert apart == pytest.approx(alone - shared / 2 * dense.plan.memory.factor, abs=2)
    together = bytes_needed(dense, Team(size=2, local_size=2))
    assert together == pytest.approx(2 * apart, abs=2)
    assert bytes_needed(packed, Team(size=2)) == packed.plan.memory.total_bytes


@pytest.mark.slow
def test_the_step_to_another_type_is_measured(tiny_base: Path, examples: Path) -> None:
    run = tune(
        str(tiny_base), data=examples, name="colours", final_type="q4_0",
        **{**QUICK, "steps": 60},
    )  # fmt: skip
    trained, *others = run.record.served
    assert [one.round for one in (trained, *others)] == ["trained", "nearest", "compensated"]
    assert all(one.kl > 0 for one in others)  # type: ignore[operator]
    chosen = next(one for one in others if one.chosen)
    assert chosen.loss == min(one.loss for one in others if one.loss is not None)
    with ModelFile.open(resolve("colours").path) as file:
        assert file.tensors["blk.0.ffn_up.weight"].type.name == "Q4_0"
    assert (run.folder / "trained.gguf").is_file()
    assert "From trained to served" in run.report_path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("weight_type", ["float32", "bfloat16"])
def test_dense_weights_come_back_as_a_file(
    weight_type: str, tiny_base: Path, examples: Path
) -> None:
    run = tune(
        str(tiny_base), data=examples, name="colours", dense=True, weight_type=weight_type,
        **{**QUICK, "learning_rate": 3e-4},
    )  # fmt: skip
    record = run.record
    assert record.loss.validation < record.loss.validation_before  # type: ignore[operator]
    assert record.proof is not None
    assert record.proof["verdict"] == "pass", record.proof["reasons"]
    assert record.served[0].type == weight_type
