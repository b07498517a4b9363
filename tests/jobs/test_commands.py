"""`llamune tune`, `runs` and `recipe` as typed: what they print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamune.cli import _main
from llamune.runs import Recipe, Run, Situation, settle


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMUNE_SUPERVISED", "test")


def finished_run(name: str = "tickets") -> Run:
    facts = Situation(n_records=100, longest_tokens=50, context_length=512, d_model=576)
    recipe = settle({"base": "starter", "name": name, "data": "a.json"}, facts)
    run = Run.create(name, recipe=recipe)
    run.update(
        state="done",
        proof={"verdict": "pass"},
        loss={"validation": 0.5, "validation_before": 2.5},
        memory={"predicted_bytes": 2_000_000_000, "measured_bytes": 1_900_000_000},
    )
    return run


def test_tune_from_the_command_line(
    tiny_base: Path, examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", str(tiny_base), "--data", str(examples), "--name", "colours", "--copy",
               "--steps", "6", "--lr", "5e-3", "--rank", "4", "--evaluations", "1",
               "--sample", "red or blue?", "--allow-sleep"]  # fmt: skip
    assert _main.run(command) == 0
    printed = capsys.readouterr()
    assert "colours:latest#1: 6 steps" in printed.out
    assert "report: " in printed.out
    for said in ("plan ", "step 6/6", "validation loss", "answers:", "proving"):
        assert said in printed.err
    assert _main.run(command) == 2
    assert "is in the library already" in capsys.readouterr().err
    assert _main.run(["runs", "show", "colours", "--lang", "ja"]) == 0
    assert "# 実行 colours:latest#1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tune"], "base and data and name must be given"),
        (["tune", "nothing-here", "--data", "a.json", "--name", "x"], "nothing-here"),
        (["tune", "--resume", "tickets", "--lr", "1"], "goes on by its own recipe"),
        (["tune", "--resume", "tickets", "--hours", "2"], "goes on by its own recipe"),
        (["tune", "--resume", "tickets"], "no run is called tickets"),
        (["tune", "x", "--rank-of", "down_proj"], "write it as down_proj=32"),
        (["runs", "show", "tickets"], "no run is called tickets"),
        (["runs", "rm", "tickets"], "no run is called tickets"),
    ],
)
def test_what_a_person_can_mend_is_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main.run(arguments) == 2
    assert said in capsys.readouterr().err


def test_missing_data_is_named(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no.json"
    arguments = ["tune", str(tiny_base), "--data", str(missing), "--name", "x", "--copy"]
    assert _main.run(arguments) == 2
    assert f"{missing}: no such file" in capsys.readouterr().err
    missing.write_text("[{")
    assert _main.run(arguments) == 2
    assert str(missing) in capsys.readouterr().err
    assert Run.all() == []


def test_every_field_of_a_recipe_has_an_option() -> None:
    import inspect

    from llamune.cli import tune

    options = set(inspect.signature(tune.command).parameters)
    other_names = {
        "learning_rate": "lr", "ranks": "rank_of", "chosen": "chosen_answers",
        "add_tokens": "add_token",
        "checkpoint_minutes": None, "warmup_steps": None, "weight_decay": None,
        "clip_norm": None, "neftune": None,
    }  # fmt: skip
    for field in Recipe.model_fields:
        name = other_names.get(field, field)
        assert name is None or name in options, field


def test_runs_are_listed_with_lineage_and_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main.run(["runs", "list"]) == 0
    assert "no runs yet" in capsys.readouterr().err
    finished_run()
    assert _main.run(["runs", "list"]) == 0
    listing = capsys.readouterr().out
    assert "tickets:latest#1" in listing
    assert "2.500 → 0.500" in listing
    assert _main.run(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "tickets:latest"


def test_lineage_ends_with_what_was_merged(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from llamune.store import publish_model, resolve

    run = finished_run()
    run.update(
        base={"reference": "starter:latest", "size_bytes": 1, "architecture": "llama",
              "parameters": 1},
        parent="older",
        files={"adapter_gguf": tiny_base},
    )  # fmt: skip
    made_by = {"llamune.run": run.reference, "llamune.merged.type": "Q8_0"}
    publish_model("whole", tiny_base, resolve(str(tiny_base)), annotations=made_by)
    assert _main.run(["runs", "list", "--json"]) == 0
    steps = ["starter:latest", "older", "adapter", "whole:latest"]
    assert json.loads(capsys.readouterr().out)[0]["lineage"] == steps


def test_a_damaged_run_hides_no_other_and_can_be_removed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished_run()
    bad = finished_run()
    bad.record_path.write_text("{")
    assert _main.run(["runs", "list"]) == 0
    listed = capsys.readouterr()
    assert "tickets:latest#1" in listed.out
    assert f"{bad.record_path} is damaged; llamune runs rm 'tickets:latest#2'" in listed.err
    assert _main.run(["runs", "rm", "tickets#2", "--yes"]) == 0
    assert not bad.folder.exists()


def test_a_run_is_shown_in_its_own_schema(capsys: pytest.CaptureFixture[str]) -> None:
    finished_run()
    assert _main.run(["runs", "show", "tickets", "--json"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert record["loss"]["validation"] == 0.5
    assert record["memory"]["measured_bytes"] == 1_900_000_000
    assert record["memory"]["predicted_bytes"] == 2_000_000_000


def test_a_run_is_removed_only_on_consent(capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run()
    assert _main.run(["runs", "rm", "tickets"]) == 2
    assert run.folder.is_dir()
    assert _main.run(["runs", "rm", "tickets#1", "--yes"]) == 0
    assert not run.folder.exists()
    assert "removed tickets:latest#1" in capsys.readouterr().err


def test_a_recipe_is_written_with_comments(
    tiny_base: Path, examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    command = ["recipe", "init", str(tiny_base), "--data", str(examples), "-o", str(path)]
    assert _main.run(command) == 0
    text = path.read_text()
    assert "# columns of the thin matrices" in text
    assert Recipe.read(path).data[0].path == examples
    assert _main.run(command) == 2
    assert "exists already" in capsys.readouterr().err
