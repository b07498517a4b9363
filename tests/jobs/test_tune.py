"""The whole job on a tiny model: every room for real, llama.cpp included."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from llamune.errors import LlamuneError, UnsupportedError
from llamune.files import sha256_of
from llamune.jobs import JobEvent, Settled, resume, tune
from llamune.runs import Recipe, RecipeError, Run
from llamune.store import ExistsError, resolve
from llamune.train import StepDone

QUICK: dict[str, Any] = {"steps": 12, "evaluations": 2, "learning_rate": 5e-3, "rank": 4}


def test_from_a_file_to_a_published_model(tiny_base: Path, examples: Path) -> None:
    before = sha256_of(tiny_base)
    events: list[JobEvent] = []
    run = tune(
        str(tiny_base), data=examples, name="colours", language="ja",
        on_event=events.append, **QUICK,
    )  # fmt: skip
    record = run.record
    assert record.state == "done"
    assert record.base is not None
    assert record.base.sha256_before == record.base.sha256_after == before == sha256_of(tiny_base)
    assert record.loss.validation < record.loss.validation_before  # type: ignore[operator]
    assert record.memory.predicted_bytes and record.memory.measured_bytes
    assert record.proof is not None
    assert record.proof["verdict"] == "pass", record.proof["reasons"]
    assert record.published == ("library: colours:latest",)
    model = resolve("colours")
    assert [adapter.path.read_bytes() for adapter in model.adapters] == [
        run.adapter_gguf.read_bytes()
    ]
    assert model.annotations["llamune.run"] == "colours:latest#1"
    report = run.report_path.read_text()
    assert before in report
    assert "ライセンス" in report
    assert any(isinstance(event, Settled) for event in events)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"rnak": 8}, "no recipe has a key `rnak`"),
        ({"rank": 0}, "rank: Input should be greater than or equal to 1"),
        ({"targets": "q_prj"}, "no linear layer is named q_prj"),
        ({"max_length": 100_000}, "more than the model's context of 512"),
        ({"steps": 5, "epochs": 2.0}, "both steps and epochs"),
        ({"preset": "modern"}, "no preset is called 'modern'"),
        ({"name": None}, "name must be given"),
        ({"report_to": "notebook"}, "no tracker is called"),
    ],
)
def test_what_is_refused_leaves_no_run(
    tiny_base: Path, examples: Path, choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(LlamuneError, match=message):
        tune(str(tiny_base), **{"data": examples, "name": "colours", **choices})
    assert Run.all() == []


def test_a_near_key_is_named(tiny_base: Path, examples: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        tune(str(tiny_base), data=examples, name="colours", learning_rat=1e-3)
    assert caught.value.hint == "did you mean `learning_rate`?"


def test_a_taken_name_is_refused_and_replaced_only_on_request(
    tiny_base: Path, examples: Path
) -> None:
    tune(str(tiny_base), data=examples, name="colours", **QUICK)
    with pytest.raises(ExistsError, match="colours:latest"):
        tune(str(tiny_base), data=examples, name="colours", **QUICK)
    second = tune(str(tiny_base), data=examples, name="colours", replace=True, **QUICK)
    assert second.reference == "colours:latest#2"
    assert Run.find("colours#1").record.state == "done"
    with pytest.raises(UnsupportedError, match="with an adapter"):
        tune("colours", data=examples, name="more", **QUICK)


def test_a_stopped_run_can_be_looked_at_and_goes_on(tiny_base: Path, examples: Path) -> None:
    def interrupt(event: JobEvent) -> None:
        if isinstance(event, StepDone) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    run = tune(str(tiny_base), data=examples, name="colours", on_event=interrupt, **QUICK)
    record = run.record
    assert record.state == "stopped"
    assert record.files["paused"].is_file()
    with pytest.raises(LlamuneError, match="colours"):
        resolve("colours")
    assert resume("colours").record.state == "done"
    assert resolve("colours").adapters
    steps = [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 13))
    with pytest.raises(LlamuneError, match="is done"):
        resume("colours")


def test_changed_data_cannot_go_on(tiny_base: Path, examples: Path, tmp_path: Path) -> None:
    def interrupt(event: JobEvent) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    data = tmp_path / "colours.json"
    rows = json.loads(examples.read_text())
    data.write_text(json.dumps(rows))
    run = tune(str(tiny_base), data=data, name="colours", on_event=interrupt, **QUICK)
    rows[3]["output"] = "none"
    data.write_text(json.dumps(rows))
    with pytest.raises(LlamuneError, match="not what the run began with"):
        resume(run)
    data.unlink()
    with pytest.raises(LlamuneError, match="no such file"):
        resume(run)


@pytest.mark.slow
def test_going_on_from_an_adapter(tiny_base: Path, examples: Path) -> None:
    first = tune(str(tiny_base), data=examples, name="colours", **QUICK)
    again = tune(
        str(tiny_base), data=examples, name="more-colours", from_adapter="colours",
        steps=4, evaluations=1, learning_rate=1e-5,
    )  # fmt: skip
    assert again.recipe.rank == 4
    assert again.record.parent == "colours"
    assert again.record.loss.validation_before == pytest.approx(
        first.record.loss.validation, abs=1e-3
    )
    with pytest.raises(RecipeError, match="has rank 4, and 8 was chosen"):
        tune(str(tiny_base), data=examples, name="other", from_adapter=str(first.adapter), rank=8)


def test_a_recipe_that_was_written_out_gives_the_same_run(
    tiny_base: Path, examples: Path, tmp_path: Path
) -> None:
    from llamune.jobs import recipe_for
    from llamune.runs import read_choices

    text = recipe_for(str(tiny_base), [examples], name="colours", steps=3)
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert set(read_choices(path)) == set(Recipe.model_fields)
    run = tune(recipe=path, evaluations=1)
    assert run.recipe.steps == 3
    assert run.recipe.evaluations == 1


def test_hours_fit_the_steps(tiny_base: Path, examples: Path) -> None:
    from llamune.errors import AnswerNo
    from llamune.jobs import opened
    from llamune.jobs.tuning import gather, prepare_for

    chosen, passes = gather(
        {"base": str(tiny_base), "data": examples, "name": "colours"},
        recipe=None, preset=None, epochs=None,
    )  # fmt: skip
    with opened(str(tiny_base)) as base:
        free = prepare_for(base, chosen, passes, hours=100.0)
        needed = free.plan.time.high / 3600
        fitted = prepare_for(base, chosen, passes, hours=needed / 2)
        assert fitted.plan.time.high <= needed / 2 * 3600
        assert fitted.recipe.steps < free.recipe.steps
        with pytest.raises(AnswerNo, match="more than"):
            prepare_for(base, chosen, passes, hours=needed / 10_000)


@pytest.mark.slow
def test_the_best_of_three_rates_is_taken(tiny_base: Path, examples: Path) -> None:
    run = tune(
        str(tiny_base), data=examples, name="colours", search_learning_rate=True,
        **{**QUICK, "learning_rate": 2e-3},
    )  # fmt: skip
    assert run.recipe.learning_rate in {1e-3, 2e-3, 4e-3}
    assert [other.reference for other in Run.all()] == [run.reference]
