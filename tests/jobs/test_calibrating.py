"""What a merge calibrates and measures on is what its run trained on and held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamune.jobs import opened, prepare_training, tune
from llamune.jobs.calibrating import general_texts, texts_of_run
from llamune.jobs.merge_measures import held_out_of_run


def test_a_merge_sees_the_same_two_parts_of_the_data(
    tiny_base: Path, examples: Path, tmp_path: Path
) -> None:
    data = tmp_path / "examples.json"
    data.write_bytes(examples.read_bytes())
    run = tune(str(tiny_base), data=data, name="parts", steps=2, evaluations=1, rank=2)
    with opened(str(tiny_base)) as base:
        recipe = run.recipe
        choices = {field: getattr(recipe, field) for field in type(recipe).model_fields}
        prepared = prepare_training(base, choices)
        held = held_out_of_run(run, base)
        trained = texts_of_run(run, base)
        assert held is not None
        assert trained is not None
        assert {tuple(record.ids) for record in held.records} == {
            tuple(record.ids) for record in prepared.validation_rendered
        }

        def text(ids: Sequence[int]) -> str:  # training stops at the last token it learns
            return base.tokenizer.decode(ids).rstrip()

        assert {text(ids) for ids in trained} == {
            text(record.ids) for record in prepared.training_rendered
        }
        data.write_text("[]")
        assert held_out_of_run(run, base) is None
        assert texts_of_run(run, base) is None


def test_the_general_text_has_many_parts_in_this_models_tokens(tiny_base: Path) -> None:
    with opened(str(tiny_base)) as base:
        texts = general_texts(base)
        assert len(texts) > 100
        assert sum(map(len, texts)) > 12_000
        assert base.tokenizer.decode(texts[1]).startswith("The lighthouse")
