"""What counts as a right answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamune.errors import LlamuneError
from llamune.evaluate import METRICS, Item, metric_named, metric_of, metrics_of, read_items
from llamune.evaluate.metrics import MIXED
from llamune.evaluate.normal import normalised, words_of
from llamune.evaluate.overlap import chrf, rouge_l


def item(*expected: str, **fields: Any) -> Item:
    messages = ({"role": "user", "content": "?"},)
    return Item(messages=messages, expected=expected, where="test:1", **fields)


def score(metric: str, answer: str, question: Item) -> float:
    found = METRICS[metric].score
    assert found is not None
    return found(answer, question)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tokyo", " tokyo. "),
        ("ＡＢＣ１２３", "abc123"),
        ("東京です。", "東京です"),
        ("「はい」", "はい"),
        ("東京 都", "東京都"),
        ("ﾄｳｷｮｳ", "トウキョウ"),
        ("10〜20", "10~20"),
        ("it’s  fine", "It's fine"),
        ("a – b", "a - b"),
    ],
)
def test_what_does_not_change_an_answer(one: str, other: str):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("東京", "京都"), ("10", "100"), ("a b", "ab"), ("-5", "5"), ("はし", "ハシ")],
)
def test_what_does_change_an_answer(one: str, other: str):
    assert normalised(one) != normalised(other)


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text: str):
    assert normalised(normalised(text)) == normalised(text)


# sacrebleu 2.6: CHRF().sentence_score(answer, [expected]).score / 100
@pytest.mark.parametrize(
    ("answer", "expected", "value"),
    [
        ("the cat sat on the mat", "the cat is on the mat", 0.645779420625287),
        ("東京は日本の首都です", "日本の首都は東京です", 0.4156746031746031),
        ("billing/urgent", "billing/normal", 0.4901043401043401),
        ("a", "abc", 0.3846153846153846),
        ("xyz", "abc", 0.0),
        ("Hello world", "hello world!", 0.7733127694865609),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_chrf(answer: str, expected: str, value: float):
    assert chrf(answer, expected) == pytest.approx(value, abs=1e-12)


# rouge-score 0.1.2: RougeScorer(["rougeL"]).score(expected, answer)["rougeL"].fmeasure
@pytest.mark.parametrize(
    ("answer", "expected", "value"),
    [
        ("the cat sat on the mat", "the cat is on the mat", 0.8333333333333334),
        ("one two three four", "four three two one", 0.25),
        ("a b", "c d", 0.0),
    ],
)
def test_rouge_l(answer: str, expected: str, value: float):
    assert rouge_l(answer, expected) == pytest.approx(value, abs=1e-12)


def test_rouge_l_of_japanese_is_not_zero():
    assert words_of("東京タワーへ行く 2024") == [*"東京タワーへ行く", "2024"]
    assert rouge_l("東京へ行きます", "東京に行きます") == pytest.approx(12 / 14)


def test_exact_and_contains_take_any_right_answer():
    question = item("Tokyo", "東京")
    assert score("exact", "東京。", question) == 1
    assert score("exact", "It is Tokyo", question) == 0
    assert score("contains", "It is Tokyo, of course.", question) == 1
    assert score("contains", "Kyoto", question) == 0


@pytest.mark.parametrize(
    ("answer", "tolerance", "value"),
    [
        ("The answer is 1,200.", None, 1),
        ("12 × 100 = １２００", None, 1),
        ("1201", None, 0),
        ("1201", "1", 1),
        ("1190", "1%", 1),
        ("1180", "1%", 0),
        ("no idea", None, 0),
        ("-1200", None, 0),
    ],
)
def test_number(answer: str, tolerance: str | None, value: float):
    assert score("number", answer, item("1200", tolerance=tolerance)) == value


def test_json_and_schema():
    schema = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
    question = item("{}", schema=schema)
    assert score("json", '{"a": 1}', question) == 1
    assert score("json", 'Here:\n```json\n{"city": "Tokyo"}\n```', question) == 1
    assert score("json", "{a: 1}", question) == 0
    assert score("schema", '{"city": "Tokyo"}', question) == 1
    assert score("schema", '{"city": 5}', question) == 0
    assert score("schema", "Tokyo", question) == 0


def test_regex_and_a_pattern_that_never_ends():
    assert score("regex", "id-123", item("x", pattern=r"^id-\d+$")) == 1
    assert score("regex", "id-x", item("x", pattern=r"^id-\d+$")) == 0
    assert score("regex", "a" * 60 + "!", item("x", pattern=r"^(a|a|aa)+$")) == 0
    with pytest.raises(LlamuneError, match=r"test:1: pattern"):
        score("regex", "x", item("x", pattern="("))


@pytest.mark.parametrize(
    ("items", "name"),
    [
        ([item("yes"), item("no")], "exact"),
        ([item("x" * 100), item("no")], "chrf"),
        ([item("a", choices=("a", "b"))], "choice"),
        ([item("5", tolerance="1")], "number"),
        ([item("x", pattern="x")], "regex"),
        ([item("{}", schema={})], "schema"),
        ([item("x", metric="contains")], "contains"),
    ],
)
def test_the_data_choose_the_metric(items: list[Item], name: str):
    assert metric_of(items).name == name


def test_items_may_name_different_metrics():
    items = [item("x", metric="exact"), item("x", metric="chrf"), item("x", choices=("x", "y"))]
    assert metric_of(items) is MIXED
    assert [one.name for one in metrics_of(MIXED, items)] == ["exact", "chrf", "choice"]
    assert metrics_of(METRICS["json"], items) == [METRICS["json"]] * 3


def test_metrics_that_have_no_common_mean_are_refused():
    with pytest.raises(LlamuneError, match="perplexity cannot be averaged with another"):
        metric_of([item("x", metric="exact"), item("x", metric="perplexity")])


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(LlamuneError) as error:
        metric_named("bleu")
    assert error.value.hint is not None
    assert "chrf" in error.value.hint


def test_a_metric_of_ones_own(tmp_path: Path):
    path = tmp_path / "politeness.py"
    path.write_text(
        "def score(answer, item):\n"
        '    """1 where the answer is polite."""\n'
        "    return 'please' in answer and item.expected[0] in answer\n"
    )
    metric = metric_named(str(path))
    assert (metric.name, metric.means) == ("politeness", "1 where the answer is polite.")
    assert metric.score is not None
    assert metric.score("please wait", item("wait")) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def other(): pass", "no function score"),
        ("def score(answer): return 1", "no function score"),
        ("def score(", "does not load"),
        ("import nothing_of_that_name", "does not load"),
        ("1 / 0", "does not load: ZeroDivisionError"),
    ],
)
def test_a_metric_file_that_is_none_is_refused(tmp_path: Path, code: str, message: str):
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(LlamuneError, match=message):
        metric_named(str(path))


def test_a_score_outside_0_to_1_is_refused(tmp_path: Path):
    path = tmp_path / "big.py"
    path.write_text("def score(answer, item):\n    return 3\n")
    metric = metric_named(str(path))
    assert metric.score is not None
    with pytest.raises(LlamuneError, match=r"score gave 3"):
        metric.score("x", item("x"))


def test_a_fault_in_a_metric_of_ones_own_is_named(tmp_path: Path):
    path = tmp_path / "faulty.py"
    path.write_text("def score(answer, item):\n    return item.fields['weight']\n")
    metric = metric_named(str(path))
    assert metric.score is not None
    with pytest.raises(LlamuneError, match=r"score failed at test:1: KeyError: 'weight'"):
        metric.score("x", item("x"))


def test_items_are_read_from_any_format(tmp_path: Path):
    import json

    path = tmp_path / "test.json"
    records = [
        {"question": "1 + 1?", "answer": "2", "tolerance": 0, "group": "sums"},
        {"instruction": "Capital?", "input": "Japan", "output": "Tokyo", "answers": ["東京"]},
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "Which?"},
                {"role": "assistant", "content": "B"},
            ],
            "choices": ["one", "two"],
            "category": "choice",
        },
    ]
    path.write_text(json.dumps(records))
    sums, capital, choice = read_items([path])
    assert (sums.expected, sums.tolerance, sums.cluster) == (("2",), "0", "sums")
    assert capital.question == "Capital?\nJapan"
    assert capital.expected == ("Tokyo", "東京")
    assert [turn["role"] for turn in choice.messages] == ["system", "user"]
    assert (choice.right_choice, choice.category) == (1, "choice")
    assert len({sums.digest, capital.digest, choice.digest}) == 3


def test_a_choice_that_is_not_on_offer_is_refused():
    with pytest.raises(LlamuneError, match="none of the choices"):
        _ = item("C", choices=("a", "b")).right_choice


def test_a_broken_record_is_refused_with_its_place(tmp_path: Path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": "a"}\n')
    with pytest.raises(LlamuneError, match=r"test\.jsonl:2"):
        read_items([path])
