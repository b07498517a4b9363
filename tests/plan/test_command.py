"""`llamune plan`: what it prints, its JSON and its exit codes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.runs import Memory, RunRecord, Seconds, runs_folder
from tests.tiny import tiny_model


def plan_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict:
    assert run(["plan", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny"), "qwen3", "Q8_0"))


def test_a_file_is_planned_from_its_header(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = plan_json(capsys, tiny, "--memory", "16GB")
    assert report["fits"] is True
    assert report["source"] == "file"
    assert report["memory"]["predicted_bytes"] > 0
    assert {part["key"] for part in report["memory"]["parts"]} >= {"weights", "activations"}
    assert report["time"]["predicted_seconds"] > 0
    assert report["running"]["fits"] is True
    assert report["licence"]["use"] == "not confirmed"  # a tiny file that says nothing


def test_a_model_that_is_not_there_is_planned_from_published_sizes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = plan_json(capsys, "gemma2:9b", "--device", "M1 Max 32GB")
    assert report["source"] == "published sizes"
    assert report["full"]["fits"] is False
    assert 74e9 < report["full"]["predicted_bytes"] < 200e9
    assert report["licence"]["sell-merged"] == "conditions"


def test_what_does_not_fit_exits_1_and_says_what_would(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["gemma2:9b", "--memory", "16GB", "--max-length", "4096", "--batch", "4"]
    report = plan_json(capsys, *arguments, code=1)
    assert report["fits"] is False
    assert report["advice"]
    assert run(["plan", *arguments]) == 1
    captured = capsys.readouterr()
    assert "does not fit" in captured.out
    assert "would" in captured.err
    assert run(["plan", "gemma2:9b", "--memory", "16GB", "--method", "full"]) == 1


def test_several_models_share_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["gemma2:9b", "qwen2.5:14b"]
    report = plan_json(capsys, *names, "--memory", "32GB")
    assert report["together"] == names
    report = plan_json(capsys, *names, "qwen2.5:32b", "--memory", "32GB", code=1)
    assert report["left_out"] == ["qwen2.5:32b"]


def test_the_table_has_every_known_model(capsys: pytest.CaptureFixture[str]) -> None:
    report = plan_json(capsys, "--machine", "--memory", "16GB")
    verdicts = {row["name"]: row for row in report["models"]}
    assert verdicts["gemma2:9b"]["run"]["verdict"] == "fits"
    assert verdicts["gemma2:9b"]["full dense"]["verdict"] == "no"
    assert verdicts["llama3.3:70b"]["run"]["verdict"] == "no"
    assert run(["plan", "--machine", "--memory", "16GB"]) == 0


def test_formulas_are_shown_with_their_numbers(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", tiny, "--explain", "--gpu", "RTX 4090"]) == 0
    out = capsys.readouterr().out
    assert "3 layers × 4,096" not in out  # the tiny model's context is 512
    assert "3 layers × 512 cells × 2 × 2 heads × 128 × 2 bytes" in out
    assert "disk -> RAM at 1.0 GB/s (an ordinary SSD" in out
    assert "RAM -> GPU at 31.5 GB/s" in out
    assert "tokens/s in one conversation" in out


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonesuch:1b"], ["x", "--method", "magic"], ["x", "--purpose", "fun"],
     ["x", "--cache-type", "f8"], ["gemma2:9b", "--memory", "much"], ["x", "--gpu", "Abacus"],
     ["gemma2:9b", "--device", "M1", "--memory", "8GB"], ["gemma2:9b", "--targets", "knee"]],
)  # fmt: skip
def test_what_a_person_can_mend_exits_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", *arguments]) == 2
    assert "error: " in capsys.readouterr().err


def test_data_make_the_plan_that_tune_would_make(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"instruction": f"say {n}", "output": "word " * n} for n in range(1, 40)]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    report = plan_json(capsys, tiny, "--data", str(path), "--memory", "16GB")
    assert report["time"]["tokens"] > 39
    assert report["settings"]["length"] <= 512


# -- audit -----------------------------------------------------------------------------------------


def keep_run(number: int, **fields: object) -> None:
    folder = runs_folder() / "m" / "latest" / str(number)
    folder.mkdir(parents=True)
    record = RunRecord(
        name="m:latest", number=number, state="done", started=datetime.now(UTC), **fields
    )
    (folder / "record.json").write_text(record.model_dump_json())


def test_past_plans_are_held_against_what_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["plan", "--audit"]) == 0
    keep_run(
        1,
        memory=Memory(predicted_bytes=110, measured_bytes=100),
        seconds=Seconds(predicted_low=10, predicted_high=40, measured=25),
    )
    keep_run(2)
    capsys.readouterr()
    report = plan_json(capsys, "--audit")
    named = {entry["name"]: entry for entry in report["runs"]}
    first = named["m:latest#1"]
    assert first["memory"]["predicted_bytes"] == 110
    assert first["memory"]["measured_bytes"] == 100
    assert first["memory"]["error"] == pytest.approx(0.1)
    assert first["time"]["predicted_seconds"] == pytest.approx(20)
    assert first["time"]["measured_seconds"] == 25
    assert first["time"]["within"] is True
    assert named["m:latest#2"]["memory"]["predicted_bytes"] is None
    assert report["memory_error"] == pytest.approx(0.1)
    assert run(["plan", "--audit"]) == 0
    assert "+10%" in capsys.readouterr().out


def test_later_plans_learn_from_measured_runs(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = plan_json(capsys, tiny)
    for number, measured in [(1, 1.2), (2, 1.3), (3, 1.4)]:
        keep_run(
            number,
            plan=before | {"machine": before["plan_machine"]},
            memory=Memory(
                predicted_bytes=before["memory"]["predicted_bytes"],
                measured_bytes=int(before["uncorrected_bytes"] * measured),
            ),
            seconds=Seconds(measured=before["flops"] / 5e9),
        )
    after = plan_json(capsys, tiny)
    assert after["memory"]["factor"] == pytest.approx(1.3, rel=1e-3)
    assert "past runs" in after["time"]["source"]
    assert after["time"]["low_seconds"] < after["flops"] / 5e9 < after["time"]["high_seconds"]
