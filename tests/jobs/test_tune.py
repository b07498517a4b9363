"""The whole job on a tiny model: every room for real, llama.cpp included."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from llamune.errors import AnswerNo, LlamuneError, UnsupportedError
from llamune.files import sha256_of
from llamune.jobs import JobEvent, Settled, look_hint, opened, resume, tune
from llamune.jobs.choosing import gather
from llamune.jobs.tuning import confirm_long, prepare_for
from llamune.runs import Recipe, RecipeError, Run
from llamune.store import ExistsError, publish_model, resolve
from llamune.train import StepDone

QUICK: dict[str, Any] = {"steps": 6, "evaluations": 2, "learning_rate": 5e-3, "rank": 4}


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
    log = run.log_path.read_text()
    for line in (
        "recipe lora r4",
        "· loading the base",
        "checkpoint of step 6",
        "(best)",
        "ended: done",
    ):
        assert line in log
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
        ({"ranks": {"q_prj": 4}}, "a rank is given for q_prj, which is not trained"),
        ({"to": "olama"}, "no place is called 'olama'"),
        ({"to": __file__}, "exists already"),
        ({"max_length": 100_000}, "more than the model's context of 512"),
        ({"max_length": 8}, "none of .* records has a token to train on within 8 tokens"),
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


def test_a_stopped_run_can_be_looked_at_and_goes_on_from_another_folder(
    tiny_base: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamune.engine import GenerateOptions, adapters_named, collect, open_engine

    def interrupt(event: JobEvent) -> None:
        if isinstance(event, StepDone) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    data, placed = tmp_path / "colours.json", tmp_path / "placed.gguf"
    data.write_bytes(examples.read_bytes())
    monkeypatch.chdir(tmp_path)
    run = tune(
        str(tiny_base), data=data.name, name="colours", to=placed.name,
        on_event=interrupt, **QUICK,
    )  # fmt: skip
    monkeypatch.chdir(tiny_base.parent)
    record = run.record
    assert record.state == "stopped"
    with pytest.raises(LlamuneError, match="colours"):
        resolve("colours")
    paused, base = record.files["paused"], resolve(str(tiny_base))
    assert look_hint(run) == f'llamune run {run.recipe.base} --adapter {paused} "…"'
    adapters = adapters_named(str(paused), base=base)
    options = GenerateOptions(max_tokens=4, temperature=0.0)
    asked = [{"role": "user", "content": "red or blue?"}]
    with open_engine(base, adapters=adapters, n_threads=1) as engine:
        assert collect(engine.chat(asked, options)).text
    assert resume("colours").record.state == "done"
    assert resolve("colours").adapters
    assert not paused.exists()
    assert placed.is_file()  # it goes on to where it was to go
    assert str(placed) in run.report_path.read_text()
    steps = [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 7))
    with pytest.raises(LlamuneError, match="is done"):
        resume("colours")


def test_a_run_whose_name_went_to_another_does_not_take_it_back(
    tiny_base: Path, examples: Path
) -> None:
    def interrupt(event: JobEvent) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    run = tune(str(tiny_base), data=examples, name="colours", on_event=interrupt, **QUICK)
    publish_model("colours", tiny_base, resolve(str(tiny_base)))
    with pytest.raises(ExistsError, match="in the library already"):
        resume(run)
    run.update(replace=True)  # as `--replace` would have said
    assert resume(run).record.state == "done"
    assert resolve("colours").annotations["llamune.run"] == run.reference
    run.update(state="running")  # killed after it was published
    run.update(replace=False)
    assert resume(run).record.state == "done"


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
    kind = {"rslora": True, "alpha": 16.0, "ranks": {"down_proj": 8}}
    first = tune(str(tiny_base), data=examples, name="colours", targets="mlp", **kind, **QUICK)
    assert first.record.proof is not None
    assert first.record.proof["verdict"] == "pass", first.record.proof["reasons"]
    again = tune(
        str(tiny_base), data=examples, name="more-colours", from_adapter="colours",
        targets="gate_proj,up_proj,down_proj", steps=4, evaluations=1, learning_rate=1e-5,
    )  # fmt: skip
    chosen = again.recipe.model_dump()
    assert (again.recipe.rank, {key: chosen[key] for key in kind}) == (4, kind)
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
    assert read_choices(path)["data"][0].path == examples
    here = recipe_for(str(tiny_base), [examples], name="x", steps=3, folder=examples.parent)
    assert f"path: {examples.name}" in here
    run = tune(recipe=path, evaluations=1)
    assert run.recipe.steps == 3
    assert run.recipe.evaluations == 1


def test_an_option_goes_before_a_written_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "{base: starter, name: x, data: a.json, rank: 4, steps: 100, warmup_steps: 10,"
        " batch: 8, micro_batch: 8}"
    )

    def chosen(**options: Any) -> tuple[dict[str, Any], float | None]:
        others = {"preset": None, "epochs": None, "hours": None}
        known = {key: options.pop(key) for key in list(options) if key in others}
        return gather(options, recipe=path, **{**others, **known})

    fields, passes = chosen(rank=16)
    assert (fields["rank"], fields["steps"], passes) == (16, 100, None)
    fields, passes = chosen(epochs=2.0)
    assert (passes, "steps" in fields, "warmup_steps" in fields) == (2.0, False, False)
    assert "steps" not in chosen(hours=8.0)[0]
    fields, _ = chosen(steps=5)  # fewer than the warm-up that was written out
    assert (fields["steps"], "warmup_steps" in fields) == (5, False)
    assert chosen(steps=50)[0]["warmup_steps"] == 10
    assert "micro_batch" not in chosen(batch=4)[0]
    assert "micro_batch" not in chosen(batch=16)[0]  # it was what fits the other batch
    fields, passes = chosen(preset="classic")
    assert (fields["rank"], fields["dropout"], fields["steps"], passes) == (4, 0.1, 100, None)
    assert chosen(preset="classic", method="full")[0]["learning_rate"] == 2e-5


def test_a_long_run_asks_first() -> None:
    from types import SimpleNamespace

    time = SimpleNamespace(total_low=3000.0, total_high=3700.0)
    prepared: Any = SimpleNamespace(plan=SimpleNamespace(time=time))
    asked: list[str] = []

    def answer(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    with pytest.raises(LlamuneError, match="not started") as caught:
        confirm_long(prepared, answer)
    assert "--yes" in (caught.value.hint or "")
    confirm_long(prepared, answer)
    assert "predicted to take 50 min" in asked[0]
    time.total_high = 3500.0
    confirm_long(prepared, answer)
    assert len(asked) == 2


def test_hours_fit_the_steps(tiny_base: Path, examples: Path) -> None:
    chosen, passes = gather(
        {"base": str(tiny_base), "data": examples, "name": "colours"},
        recipe=None, preset=None, epochs=None, hours=100.0,
    )  # fmt: skip
    with opened(str(tiny_base)) as base:
        free = prepare_for(base, chosen, passes, hours=100.0)
        time = free.plan.time
        seconds = time.around_high + time.high / 2
        fitted = prepare_for(base, chosen, passes, hours=seconds / 3600)
        assert fitted.plan.time.total_high <= seconds
        assert fitted.recipe.steps < free.recipe.steps
        with pytest.raises(AnswerNo, match="more than"):
            prepare_for(base, chosen, passes, hours=time.around_high / 3600)


@pytest.mark.slow
def test_the_best_of_three_rates_is_taken(tiny_base: Path, examples: Path) -> None:
    run = tune(
        str(tiny_base), data=examples, name="colours", search_learning_rate=True,
        **{**QUICK, "learning_rate": 2e-3},
    )  # fmt: skip
    assert run.recipe.learning_rate in {1e-3, 2e-3, 4e-3}
    assert [other.reference for other in Run.all()] == [run.reference]
