"""Evaluations from a scripted engine: scores kept, books, forgetting, contamination, pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamune.engine import Asked, Conversation, Engine, EngineError, Piece
from llamune.errors import LlamuneError
from llamune.evaluate import (
    METRICS,
    AnswerBook,
    Asking,
    Evaluation,
    Item,
    Judge,
    Outcome,
    Training,
    base_of,
    evaluate,
    forgetting,
    forgotten,
    general_items,
    html_report,
    kept_scores,
    metric_named,
    outcomes,
    scores_path,
    training_of,
)
from llamune.evaluate.contamination import overlaps
from llamune.evaluate.forgetting import general_metrics
from llamune.files import sha256_of
from llamune.runs import DataFacts, Run, Situation, settle
from llamune.store import Model, ModelName, publish_model
from llamune.words import catalogue

Reply = Callable[[str], str]


class Scripted(Engine):
    """Answers each question as a function says."""

    def __init__(self, reply: Reply, name: str = "scripted") -> None:
        self._reply = reply
        self._name = name
        self.asked: list[str] = []

    @property
    def name(self) -> str:
        return self._name

    def stream(self, asked: Asked) -> Iterator[Piece]:
        assert isinstance(asked, Conversation)
        question = asked.messages[-1]["content"]
        self.asked.append(question)
        yield Piece(text=self._reply(question), finish_reason="stop")

    def embed(self, texts: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to close."""


def items_of(n: int) -> list[Item]:
    return [
        Item(
            messages=({"role": "user", "content": f"{number} + 0?"},),
            expected=(str(number),),
            where=f"test:{number}",
        )
        for number in range(n)
    ]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return Model(ref="model", paths=(path,))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scripted]:
    """Replace the embedded engine: model path → what answers."""
    engines: dict[str, Scripted] = {}

    @contextmanager
    def opened(model: Model | str, asking: Asking) -> Iterator[Engine]:
        yield engines[Path(str(model)).name]

    monkeypatch.setattr(outcomes, "opened", opened)
    return engines


def right(question: str) -> str:
    return question.split(maxsplit=1)[0]


def run(model: Model, items: list[Item], **options: Any) -> Evaluation:
    return evaluate(model, items, METRICS["exact"], task="sums", asking=Asking(), **options)


def test_a_score_with_its_interval(model: Model, scripted: dict[str, Scripted]):
    scripted["model.gguf"] = Scripted(lambda q: right(q) if int(right(q)) % 2 else "no")
    found = run(model, items_of(20))
    assert (found.score.mean, found.score.n) == (0.5, 20)
    assert found.score.low < 0.5 < found.score.high
    assert found.reaches(0.5, strict=False)
    assert not found.reaches(0.5, strict=True)
    assert [found.is_right(place) for place in (0, 1)] == [False, True]
    assert (found.training_run, found.overlaps) == (None, ())


def test_better_than_the_baseline_and_what_to_do_next(
    model: Model, tmp_path: Path, scripted: dict[str, Scripted]
):
    base_path = tmp_path / "base.gguf"
    base_path.write_bytes(b"GGUF0")
    base = Model(ref="base", paths=(base_path,))
    scripted["model.gguf"] = Scripted(right)
    scripted["base.gguf"] = Scripted(lambda _: "no")
    found = run(model, items_of(10), baseline=base)
    assert found.comparison is not None
    assert found.comparison.verdict == "better"
    assert found.comparison.sentence == "better (p = 0.002, McNemar)"
    assert found.advice(0.9) == "done"
    back = run(base, items_of(10), baseline=model)
    assert back.advice(None) == "stop"
    few = run(model, items_of(3), baseline=base)
    assert few.comparison is not None
    assert few.comparison.sentence == "cannot tell; about 3 more items would"
    assert few.advice(None) == "more items"
    json.dumps(found.as_dict())


def test_answers_are_kept_and_a_stopped_run_goes_on(model: Model, scripted: dict[str, Scripted]):
    def failing(question: str) -> str:
        if right(question) == "5":
            raise EngineError("the power went out")
        return right(question)

    asking = Asking(n_parallel=1)
    scripted["model.gguf"] = Scripted(failing)
    with pytest.raises(EngineError):
        evaluate(model, items_of(10), METRICS["exact"], task="sums", asking=asking)
    scripted["model.gguf"] = again = Scripted(right)
    found = evaluate(model, items_of(10), METRICS["exact"], task="sums", asking=asking)
    assert found.score.mean == 1
    assert "4 + 0?" not in again.asked
    assert "5 + 0?" in again.asked
    scripted["model.gguf"] = third = Scripted(right)
    evaluate(model, items_of(10), METRICS["exact"], task="sums", asking=asking)
    assert third.asked == []
    evaluate(model, items_of(2), METRICS["exact"], task="sums", asking=Asking(fresh=True))
    assert len(third.asked) == 2


def test_a_changed_model_is_asked_again(model: Model, scripted: dict[str, Scripted]):
    scripted["model.gguf"] = engine = Scripted(right)
    run(model, items_of(3))
    model.path.write_bytes(b"GGUF of another size")
    run(model, items_of(3))
    assert len(engine.asked) == 6


def test_a_half_written_line_is_passed_over(tmp_path: Path):
    book = AnswerBook(tmp_path / "book.jsonl")
    book.put("q", "a")
    with (tmp_path / "book.jsonl").open("a") as out:
        out.write('{"question": "r", "ans')
    again = AnswerBook(tmp_path / "book.jsonl")
    assert (again.get("q"), again.get("r")) == ("a", None)


def test_a_regression_against_the_last_score_is_told(model: Model, scripted: dict[str, Scripted]):
    scripted["model.gguf"] = Scripted(right)
    first = run(model, items_of(12))
    assert first.last is None
    model.path.write_bytes(b"GGUF worse")
    scripted["model.gguf"] = Scripted(lambda _: "no")
    second = run(model, items_of(12))
    assert second.last is not None
    assert second.last.score.mean == 1
    assert second.since_last == "worse"
    kept = kept_scores(scores_path(model))
    assert [entry.score.mean for entry in kept] == [1, 0]
    assert kept[0].values == (1.0,) * 12
    other_test = run(model, items_of(5))
    assert other_test.last is None


def test_scores_of_a_name_lie_beside_its_runs(model: Model, home: Path):
    named = replace(model, name=ModelName.parse("tickets"))
    path = scores_path(named)
    assert path.relative_to(home / "llamune" / "runs").as_posix() == "tickets/latest/scores.jsonl"


def test_the_general_suite_is_whole_and_checkable():
    items = general_items()
    metrics = general_metrics(items)
    assert len(items) >= 40
    assert {"knowledge", "knowledge-ja", "arithmetic", "instructions", "language"} == {
        item.category for item in items
    }
    for item, metric in zip(items, metrics, strict=True):
        if metric is METRICS["choice"]:
            assert item.choices[item.right_choice] == item.expected[0]
        else:  # the expected answer itself scores 1, nothing scores 0
            assert metric.score is not None
            assert metric.score(item.expected[0], item) == 1, item.question
            assert metric.score("I do not know", item) == 0, item.question


def test_forgetting_is_seen(
    monkeypatch: pytest.MonkeyPatch, model: Model, scripted: dict[str, Scripted]
):
    items = general_items()

    def outcomes_of(asked: Any, chosen: Any, metrics: Any, asking: Any) -> list[Outcome]:
        keeps = asked == "base"
        return [
            Outcome(answer="", score=float(keeps or place % 3 > 0)) for place in range(len(chosen))
        ]

    monkeypatch.setattr(forgetting, "outcomes_of", outcomes_of)
    lost = forgotten("tuned", "base", Asking())
    n_checked = sum(metric.needs == "answer" for metric in general_metrics(items))
    assert lost.comparison.before.n == n_checked
    assert lost.comparison.before.mean == 1
    assert lost.comparison.after.mean == pytest.approx(2 / 3, abs=0.05)
    assert lost.comparison.verdict == "worse"
    scripted["model.gguf"] = Scripted(right)
    found = run(model, items_of(6))
    assert (found.advice(None), found.advice(None, lost)) == ("done", "keep more")
    assert set(lost.categories) <= {item.category for item in items}


def test_training_data_in_the_test_are_found():
    long = "the quick brown fox jumps over the lazy dog near the old stone bridge at dawn"
    japanese = "この製品の保証期間は購入日から一年間であり、保証書と領収書の両方が必要となります"
    items = [
        Item(messages=({"role": "user", "content": text},), expected=("x",), where="t")
        for text in (
            "What is 1 + 1 ?",
            f"Complete: {long}",
            f"教えてください。{japanese}。",
            "Something else entirely that nobody has ever asked before in any data set",
        )
    ]
    training = [("ＷＨＡＴ is 1 + 1?", "2"), (long, "y"), ("保証は？", japanese)]
    found = overlaps(items, Training(run="tickets:latest#1", pairs=tuple(training)))
    assert [(one.place, one.kind) for one in found] == [
        (0, "same question"),
        (1, "shared text"),
        (2, "shared text"),
    ]


def run_on(data: Path) -> Run:
    """Make a run that was trained on a file."""
    situation = Situation(n_records=2, longest_tokens=9, context_length=512, d_model=576)
    asked = {"base": "starter", "name": "tickets", "data": str(data)}
    run = Run.create("tickets", recipe=settle(asked, situation))
    facts = DataFacts(
        files=(str(data),),
        sha256=(sha256_of(data),),
        fingerprint="f",
        training_records=2,
        validation_records=0,
        tokens=1,
        trained_tokens=1,
    )
    run.update(data=facts)
    return run


def test_what_a_model_was_trained_on_is_known_from_its_run(model: Model, tmp_path: Path):
    assert training_of(model) is None
    data = tmp_path / "train.jsonl"
    turns = [("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    talk = {"messages": [{"role": role, "content": text} for role, text in turns]}
    data.write_text(f'{json.dumps(talk)}\n{{"question": "Three?", "answer": "3"}}\n')
    tuned = replace(model, annotations={"llamune.run": run_on(data).reference})
    found = training_of(tuned)
    assert found is not None
    assert found.run == "tickets:latest#1"
    assert found.pairs == (("One?", "1"), ("Two?", "2"), ("Three?", "3"))
    data.write_text("changed")
    with pytest.raises(LlamuneError, match="changed since tickets:latest#1"):
        training_of(tuned)
    data.unlink()
    with pytest.raises(LlamuneError, match="gone"):
        training_of(tuned)


def test_the_base_of_a_tuned_model_is_known_from_its_lineage(model: Model, starter_path: Path):
    with pytest.raises(LlamuneError, match="not known what it was tuned from"):
        base_of(model)
    base = publish_model("base", starter_path)
    lineage = {"llamune.base.name": "base", "llamune.base.digest": str(base.digest)}
    assert base_of(replace(model, annotations=lineage)).digest == base.digest
    other = lineage | {"llamune.base.digest": "0" * 64}
    with pytest.raises(LlamuneError, match="another file"):
        base_of(replace(model, annotations=other))


def test_a_judge_marks_by_a_rubric():
    engine = Scripted(
        lambda task: json.dumps({"reason": "ok", "mark": 5 if "mark:\n42" in task else 1})
    )
    judge = Judge(engine, rubric="5: says 42")
    item = items_of(1)[0]
    assert judge.mark(item, "42") == 1
    assert judge.mark(item, "43") == 0
    assert "5: says 42" in engine.asked[0]
    book = AnswerBook(None)
    for _ in range(2):
        assert Judge(engine, book=book).mark(item, "42") == 1
    assert len(engine.asked) == 3  # marks in the book are not asked for again
    with pytest.raises(LlamuneError, match="gave no mark"):
        Judge(Scripted(lambda _: "very good!")).mark(item, "42")
    with pytest.raises(LlamuneError, match="needs a model that judges"):
        Judge.needed(None)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_holds_every_answer_and_no_markup_of_theirs(
    model: Model, scripted: dict[str, Scripted], language: str
):
    scripted["model.gguf"] = Scripted(lambda _: "<script>alert(1)</script>")
    seen = Training(run="tickets:latest#1", pairs=(("0 + 0?", "0"),))
    found = run(model, items_of(4), baseline=model, training=seen)
    page = html_report(found, language=language)
    assert page.count("<tr class=") == 4
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert f'<html lang="{language}">' in page
    assert ("正解例" in page) == (language == "ja")
    assert "tickets:latest#1" in page
    none = run(model, items_of(1), training=Training(run="tickets:latest#1", pairs=()))
    assert catalogue("evaluate", language)("no_overlap", run="tickets:latest#1") in html_report(
        none, language=language
    )
    assert "http" not in page.replace("http-equiv", "")


def test_a_metric_by_file_runs_in_an_evaluation(
    model: Model, scripted: dict[str, Scripted], tmp_path: Path
):
    (tmp_path / "longer.py").write_text(
        "def score(answer, item):\n    return min(1.0, len(answer) / 10)\n"
    )
    scripted["model.gguf"] = Scripted(lambda _: "12345")
    metric = metric_named(str(tmp_path / "longer.py"))
    found = evaluate(model, items_of(6), metric, task="sums", asking=Asking())
    assert (found.score.mean, found.score.metric) == (0.5, "longer")
