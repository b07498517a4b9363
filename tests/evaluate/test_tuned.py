"""A real tuning of the starter, scored: what it won, what it forgot, what it has seen before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.jobs import tune
from llamune.store import publish_model

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_base_against_tuned_with_forgetting_contamination_and_history(
    starter_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_model("starter", starter_path)
    test = EXAMPLES / "tickets.test.json"
    made = tune(
        "starter", data=EXAMPLES / "tickets.json", test=str(test), name="tickets",
        steps=8, rank=4, learning_rate=1e-3, dropout=0.0, evaluations=1,
    )  # fmt: skip
    (told,) = made.record.scores
    capsys.readouterr()

    assert run(["scores", "tickets", "--json"]) == 0
    (kept,) = json.loads(capsys.readouterr().out)
    assert (kept["run"], kept["score"]["n"]) == ("tickets:latest#1", told.n)
    assert kept["score"]["mean"] == told.after

    asked = ["eval", "tickets", "--max-tokens", "16", "--threads", "1", "--json"]
    assert run([*asked, "--data", str(test), "--forgetting", "--baseline", "starter"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["training_run"], found["overlaps"]) == ("tickets:latest#1", [])
    assert found["last"]["mean"] == told.after  # the same questions as in the tuning
    forgotten = found["forgetting"]
    assert forgotten["baseline"] == "starter:latest"
    before, after = forgotten["comparison"]["before"], forgotten["comparison"]["after"]
    assert before["n"] == after["n"] >= 40
    assert before["low"] < before["mean"] < before["high"]
    assert 0.2 < before["mean"] < 0.9  # the suite is neither too easy nor too hard for it
    interval = forgotten["comparison"]["difference"]["interval"]
    assert interval["low"] <= after["mean"] - before["mean"] <= interval["high"]

    seen = tmp_path / "seen.json"
    seen.write_text(json.dumps(json.loads((EXAMPLES / "tickets.json").read_text())[:3]))
    assert run([*asked, "--data", str(seen)]) == 0
    assert [one["place"] for one in json.loads(capsys.readouterr().out)["overlaps"]] == [0, 1, 2]
