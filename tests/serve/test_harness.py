"""lm-evaluation-harness as a client scores what its own backend scores on the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamune.convert import to_transformers
from llamune.gguf import ModelFile
from llamune.store import publish_model
from tests.serve.real import running_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CAPITALS = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Spain": "Madrid",
    "Egypt": "Cairo",
    "China": "Beijing",
    "Russia": "Moscow",
    "Peru": "Lima",
    "Cuba": "Havana",
}
QUESTIONS = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: CHOICES}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
COUNTING = """
task: counting
dataset_path: json
dataset_kwargs: {data_files: {test: NUMBERS}}
test_split: test
output_type: generate_until
doc_to_text: "{{start}}"
doc_to_target: "{{next}}"
generation_kwargs: {until: [","], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
"""


def write_tasks(folder: Path) -> None:
    """Write a multiple-choice and a generation task that need no network."""
    names = list(CAPITALS.values())
    rows = [
        {"country": country, "choices": [names[place], names[place - 3], names[place - 6]]}
        | {"label": 0}
        for place, country in enumerate(CAPITALS)
    ]
    starts = [
        {"start": f"{n}, {n + 1}, {n + 2}, {n + 3},", "next": f" {n + 4}"} for n in range(1, 7)
    ]
    for name, task, data in (("CHOICES", QUESTIONS, rows), ("NUMBERS", COUNTING, starts)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in data))
        (folder / f"{name}.yaml").write_text(task.replace(name, str(path)))


def test_scores_equal_those_of_the_harness_itself(
    tmp_path: Path, starter_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    harness = pytest.importorskip("lm_eval", reason="lm-eval is not installed (group `eval`)")
    from lm_eval.tasks import TaskManager

    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_tasks(tasks)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    unpacked = tmp_path / "unpacked"
    with ModelFile.open(starter_path) as file:
        to_transformers(file, unpacked)
    publish_model("starter", starter_path)

    def scores(backend: str, **arguments: Any) -> tuple[dict[str, float], list[float]]:
        found = harness.simple_evaluate(
            model=backend,
            model_args=arguments,
            tasks=["capitals", "counting"],
            task_manager=manager,
            batch_size=4,
            bootstrap_iters=0,
        )
        figures = {
            f"{task}:{key}": value
            for task, values in found["results"].items()
            for key, value in values.items()
            if isinstance(value, float) and "stderr" not in key
        }
        likelihoods = [
            pair[0] for sample in found["samples"]["capitals"] for pair in sample["filtered_resps"]
        ]
        return figures, likelihoods

    with running_server("--context", "512") as server:
        served, ours = scores(
            "local-completions",
            model="starter",
            base_url=f"{server.url}/v1/completions",
            tokenizer=str(unpacked),
            tokenizer_backend="huggingface",
        )
    judged, theirs = scores("hf", pretrained=str(unpacked), dtype="float32", device="cpu")
    assert served == judged
    assert served["capitals:acc,none"] > 0.6  # chance is one in three
    # llama.cpp rounds activations to 8 bits before a product with packed weights
    assert ours == pytest.approx(theirs, abs=0.5)
