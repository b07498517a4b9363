"""The data sets that ship are clean, and their recipes are recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamune.data import check, read_records

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = [
    path
    for path in sorted(EXAMPLES.iterdir())
    if path.suffix in {".json", ".jsonl"} and ".test" not in path.name
]
RECIPES = sorted(EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_a_data_set_has_no_error_or_warning(path: Path) -> None:
    held_out = [other for other in [path.with_suffix(f".test{path.suffix}")] if other.exists()]
    report = check([path], held_out=held_out, purpose="task")
    assert report.n_records >= 100
    assert [f for f in report.findings if f.severity != "note"] == []


def test_the_held_out_tickets_have_every_label_and_no_other() -> None:
    training, test = (
        read_records([EXAMPLES / name]).records for name in ("tickets.json", "tickets.test.json")
    )
    labels = {record.answer for record in training}
    assert len(labels) == 8
    assert {record.answer for record in test} == labels
    assert len(test) >= 60


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_read(path: Path) -> None:
    from llamune.runs import read_choices

    choices = read_choices(path)
    assert choices["base"] == "starter"
    for entry in (*choices["data"], *choices.get("test", ())):
        assert entry.path.is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_lead_to_a_training_that_is_planned(path: Path, starter_path: Path) -> None:
    from llamune.jobs.preparing import opened, prepare_training
    from llamune.runs import read_choices

    with opened(str(starter_path)) as base:
        prepared = prepare_training(base, read_choices(path))
    assert prepared.training.n_cut == prepared.training.n_untrained == 0
    assert prepared.recipe.max_length < 128
