"""Recipes: defaults by evidence, errors that name the key, files that read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamune.runs import (
    PRESETS,
    Recipe,
    RecipeError,
    Situation,
    check_choices,
    default_learning_rate,
    read_choices,
    settle,
)

ASKED = {"base": "starter", "name": "tickets", "data": "a.json"}


def situation(**changes: Any) -> Situation:
    facts = {"n_records": 1200, "longest_tokens": 300, "context_length": 8192, "d_model": 4096}
    return Situation(**{**facts, **changes})


@pytest.mark.parametrize(
    ("n_records", "rank", "batch", "dropout"),
    [(100, 8, 8, 0.05), (499, 16, 8, 0.05), (5_000, 16, 16, 0.0), (20_000, 32, 16, 0.0)],
)
def test_defaults_by_the_number_of_records(
    n_records: int, rank: int, batch: int, dropout: float
) -> None:
    recipe = settle(check_choices(ASKED), situation(n_records=n_records))
    assert (recipe.rank, recipe.batch, recipe.dropout) == (rank, batch, dropout)
    assert (recipe.alpha, recipe.targets, recipe.neftune) == (32, "all", 0)


def test_passes_become_steps() -> None:
    chosen = check_choices({**ASKED, "batch": 8})
    assert settle(chosen, situation(n_records=80), epochs=3).steps == 30
    assert settle(chosen, situation(n_records=80)).steps == 50  # five passes over few records
    assert settle(chosen, situation(n_records=8000)).steps == 3000
    with pytest.raises(RecipeError, match="both steps and epochs"):
        settle({**chosen, "steps": 4}, situation(), epochs=2)


def test_the_warm_up_is_short() -> None:
    assert settle(check_choices({**ASKED, "steps": 50}), situation()).warmup_steps == 5
    assert settle(check_choices({**ASKED, "steps": 5000}), situation()).warmup_steps == 20
    assert settle(check_choices({**ASKED, "steps": 1}), situation()).warmup_steps == 0


def test_the_learning_rate_follows_the_published_fit() -> None:
    # tinker-cookbook's own examples, at batch 128: 1B, 3B, 8B Llama
    for d_model, rate in ((2048, 4.9e-4), (3072, 3.6e-4), (4096, 2.9e-4)):
        found = default_learning_rate(d_model=d_model, architecture="llama", batch=128, steps=1000)
        assert found == pytest.approx(rate, rel=0.02)
    long_run = default_learning_rate(d_model=4096, architecture="llama", batch=16, steps=1000)
    short_run = default_learning_rate(d_model=4096, architecture="llama", batch=16, steps=99)
    assert long_run == pytest.approx(1e-4, rel=0.05)
    assert short_run == pytest.approx(1.5 * long_run, rel=0.05)


def test_the_length_is_the_longest_record_within_limits() -> None:
    asked = check_choices(ASKED)
    assert settle(asked, situation()).max_length == 300
    assert settle(asked, situation(longest_tokens=9000)).max_length == 2048
    assert settle(asked, situation(longest_tokens=9000, context_length=512)).max_length == 512


def test_the_classic_preset_is_the_tutorials() -> None:
    classic = PRESETS["classic"]
    facts = situation(n_records=80)
    chosen = check_choices({**ASKED, **classic.settings("lora")})
    recipe = settle(chosen, facts, epochs=classic.epochs)
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.batch) == (8, 32, 0.1, 8)
    assert (recipe.targets, recipe.learning_rate, recipe.steps) == ("attention", 1e-4, 30)
    chosen = check_choices({**ASKED, "method": "full", **classic.settings("full")})
    recipe = settle(chosen, facts, epochs=classic.epochs)
    assert (recipe.learning_rate, recipe.batch, recipe.steps) == (2e-5, 4, 60)


@pytest.mark.parametrize(
    ("choices", "message", "hint"),
    [
        ({"learning_rat": 1}, "no recipe has a key `learning_rat`", "learning_rate"),
        ({"lr": 1}, "no recipe has a key `lr`", "keys:"),
        ({"rank": 0}, "rank: Input should be greater than or equal to 1, found 0", "columns"),
        ({"schedule": "step"}, "schedule", "falls"),
        ({"learning_rate": "fast"}, "learning_rate", "AdamW"),
    ],
)
def test_a_wrong_choice_names_itself(choices: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check_choices(choices)
    assert hint in (caught.value.hint or "")


def test_values_that_contradict_each_other() -> None:
    with pytest.raises(RecipeError, match="micro_batch 9 is larger than batch 8"):
        settle(check_choices({**ASKED, "batch": 8, "micro_batch": 9}), situation())
    with pytest.raises(RecipeError, match="warmup_steps 10 leaves none"):
        settle(check_choices({**ASKED, "steps": 10, "warmup_steps": 10}), situation())


def test_a_recipe_reads_back_as_it_was_written(tmp_path: Path) -> None:
    asked = check_choices({**ASKED, "targets": "q_proj, v_proj", "data": [
        {"path": "/data/a.json", "weight": 2}, "/data/日本語.json"]})  # fmt: skip
    recipe = settle(asked, situation())
    path = tmp_path / "recipe.yaml"
    recipe.write(path)
    assert Recipe.read(path) == recipe


def test_a_part_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "learning_rate: 2e-4\ndata: [a.json]\ntest: b.json\ntargets: [q_proj, v_proj]\n"
    )
    choices = read_choices(path)
    assert choices["learning_rate"] == 2e-4  # YAML 1.1 says that this is a text
    assert choices["data"][0].path == tmp_path / "a.json"
    assert choices["test"][0].path == tmp_path / "b.json"
    assert choices["targets"] == ("q_proj", "v_proj")


@pytest.mark.parametrize("text", ["rank: [", "- rank", "\x00", "rank: 8\nrank_: 9\n"])
def test_a_damaged_recipe_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        read_choices(path)


def test_every_field_says_what_it_is() -> None:
    for name, field in Recipe.model_fields.items():
        assert field.description, name
        assert field.is_required(), f"{name}: defaults belong in defaults.py"
