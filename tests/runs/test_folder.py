"""Run folders: numbers, names, and what is found by them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import pytest

from llamune.runs import Recipe, Run, RunError, RunRecord, Situation, machine, runs_folder, settle


def recipe(**choices: Any) -> Recipe:
    asked = {"base": "starter", "name": "tickets", "data": "a.json", **choices}
    facts = Situation(n_records=100, longest_tokens=50, context_length=512, d_model=576)
    return settle(asked, facts)


def test_runs_of_a_name_are_numbered() -> None:
    first, second = Run.create("tickets", recipe=recipe()), Run.create("tickets", recipe=recipe())
    other = Run.create("me/tickets:v2", recipe=recipe())
    assert first.folder == runs_folder() / "tickets" / "latest" / "1"
    assert second.reference == "tickets:latest#2"
    assert other.reference == "me/tickets:v2#1"
    assert [run.reference for run in Run.all()] == [
        "tickets:latest#1", "tickets:latest#2", "me/tickets:v2#1",
    ]  # fmt: skip


def test_a_number_is_never_given_twice() -> None:
    first = Run.create("tickets", recipe=recipe())
    second = Run.create("tickets", recipe=recipe())
    first.update(state="done")
    first.remove()
    assert Run.create("tickets", recipe=recipe()).number == 3
    second.update(state="done")


def test_a_name_means_its_latest_run() -> None:
    for _ in range(11):
        Run.create("tickets", recipe=recipe())
    assert Run.find("tickets").number == 11
    assert Run.find("tickets:latest#2").number == 2


def test_what_is_not_there_is_named() -> None:
    Run.create("tickets", recipe=recipe())
    with pytest.raises(RunError, match="has no run 7") as caught:
        Run.find("tickets#7")
    assert caught.value.hint == "it has: 1"
    with pytest.raises(RunError, match="no run is called other:latest") as caught:
        Run.find("other")
    assert "tickets:latest" in (caught.value.hint or "")
    with pytest.raises(RunError, match="`name` or `name#number`"):
        Run.find("tickets#first")


def test_a_record_grows_and_reads_back() -> None:
    run = Run.create("tickets", recipe=recipe(steps=7))
    assert run.record.steps_planned == 7
    assert run.recipe.steps == 7
    run.update(state="running", steps_done=3)
    again = Run.find("tickets")
    assert (again.record.state, again.record.steps_done) == ("running", 3)


def test_a_damaged_record_is_named() -> None:
    run = Run.create("tickets", recipe=recipe())
    run.record_path.write_text("{")
    with pytest.raises(RunError, match=r"record\.json"):
        _ = run.record


def test_a_run_that_still_trains_is_not_removed() -> None:
    run = Run.create("tickets", recipe=recipe())
    run.update(state="running", process=os.getpid(), started=datetime.now(UTC))
    assert run.is_alive()
    with pytest.raises(RunError, match="still training"):
        run.remove()
    run.update(process=2**22 + 1)  # no such process
    assert not run.is_alive()
    run.remove()
    assert not (runs_folder() / "tickets").exists()


def test_the_record_has_a_schema() -> None:
    schema = RunRecord.model_json_schema()
    text = str(schema)
    for key in ("validation", "measured_bytes", "predicted_bytes", "sha256_before"):
        assert key in text


def test_facts_of_this_machine_are_kept() -> None:
    machine.remember("compute", "cpu 576", {"gflops": 180.0})
    machine.remember("compute", "cpu 768", {"gflops": 170.0})
    assert machine.recall("compute", "cpu 576") == {"gflops": 180.0}
    assert machine.recall("compute", "gpu") is None
    assert set(machine.facts("compute")) == {"cpu 576", "cpu 768"}
    machine.machine_path().write_text("not JSON")
    assert machine.recall("compute", "cpu 576") is None
    machine.remember("compute", "cpu 576", {"gflops": 1.0})
    assert machine.recall("compute", "cpu 576") == {"gflops": 1.0}


def test_facts_of_another_machine_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    machine.remember("compute", "cpu", {"gflops": 180.0})
    monkeypatch.setattr(machine, "fingerprint", lambda: "another")
    assert machine.recall("compute", "cpu") is None
