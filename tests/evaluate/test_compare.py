"""Votes, ratings, pairings and the page of a comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamune.engine import Answer
from llamune.errors import LlamuneError
from llamune.evaluate import (
    Contestant,
    Vote,
    add_vote,
    compare_report,
    judged,
    pairings,
    ratings_of,
    read_prompts,
    read_votes,
    rounds,
)
from tests.evaluate.test_evaluation import Scripted

PROMPTS = [[{"role": "user", "content": f"question {number}"}] for number in range(4)]


def contestant(name: str, *texts: str) -> Contestant:
    answers = tuple(
        Answer(text=text, n_answer_tokens=10, answer_seconds=0.5, first_piece_seconds=0.1)
        for text in texts
    )
    return Contestant(name=name, answers=answers, size_bytes=1 << 30, memory_bytes=2 << 30)


def vote(left: str, right: str, winner: Any) -> Vote:
    return Vote(prompt="0" * 64, left=left, right=right, winner=winner)


def drawn_votes(truth: dict[str, float], n: int, *, seed: int = 0) -> list[Vote]:
    """Votes of models with known ratings."""
    random = np.random.default_rng(seed)
    votes = []
    for _ in range(n):
        left, right = random.choice(list(truth), 2, replace=False)
        chance = 1 / (1 + 10 ** ((truth[right] - truth[left]) / 400))
        votes.append(vote(left, right, "left" if random.random() < chance else "right"))
    return votes


def test_ratings_find_the_truth_within_their_interval():
    truth = {"a": 1150.0, "b": 1000.0, "c": 850.0}
    found = {rating.model: rating for rating in ratings_of(drawn_votes(truth, 600))}
    for name, value in truth.items():
        assert found[name].low <= value <= found[name].high
        assert found[name].high - found[name].low < 120
    assert [rating.model for rating in ratings_of(drawn_votes(truth, 600))] == ["a", "b", "c"]


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth = {"a": 1100.0, "b": 1000.0, "c": 900.0}
    held = [
        rating.low <= truth[rating.model] <= rating.high
        for seed in range(200)
        for rating in ratings_of(drawn_votes(truth, 60, seed=seed))
    ]
    assert 0.92 <= sum(held) / len(held) <= 0.98


def test_a_few_equal_votes_say_little():
    for votes in ([vote("a", "b", "tie")] * 2, [vote("a", "b", "left")] * 2):
        for rating in ratings_of(votes):
            assert rating.low < 1000 - 50
            assert rating.high > 1000 + 50


def test_ratings_are_those_of_the_likelihood():
    """Against scipy's minimum of the Bradley-Terry likelihood with the same virtual ties."""
    from scipy.optimize import minimize

    votes = [*drawn_votes({"a": 1100, "b": 1000, "c": 900}, 80, seed=3), vote("a", "c", "tie")]
    names = ["a", "b", "c"]

    def loss(x: Any) -> float:
        total = 0.0
        for one in votes:
            i, j = names.index(one.left), names.index(one.right)
            points = {"left": 1.0, "right": 0.0, "tie": 0.5}[one.winner]
            total += points * np.logaddexp(0, x[j] - x[i])
            total += (1 - points) * np.logaddexp(0, x[i] - x[j])
        for i, j in ((0, 1), (0, 2), (1, 2)):  # half a virtual game each way a pair
            total += 0.25 * (np.logaddexp(0, x[j] - x[i]) + np.logaddexp(0, x[i] - x[j]))
        return total + 1e-9 * float(x @ x)

    x = minimize(loss, np.zeros(3), tol=1e-12).x
    expected = 1000 + 400 / np.log(10) * (x - x.mean())
    found = {rating.model: rating.rating for rating in ratings_of(votes)}
    assert [found[name] for name in names] == pytest.approx(expected.tolist(), abs=0.5)


def test_one_that_never_lost_is_not_infinitely_strong():
    (first, second) = ratings_of([vote("a", "b", "left")] * 5)
    assert first.model == "a"
    assert 1000 < first.rating < 1500
    assert (first.n_votes, first.win_rate, second.win_rate) == (5, 1.0, 0.0)
    assert ratings_of([]) == []


def test_votes_are_kept(tmp_path: Path):
    path = tmp_path / "votes.jsonl"
    assert read_votes(path) == []
    add_vote(path, vote("a", "b", "tie"))
    with path.open("a") as out:
        out.write("half a li")
    assert read_votes(path) == [vote("a", "b", "tie")]


def test_a_blind_vote_hides_who_is_who():
    one, other = contestant("one", "x", "x", "x", "same"), contestant("two", "y", "y", "y", "same ")
    pairs = list(pairings([one, other], PROMPTS, seed=1))
    assert len(pairs) == 3  # the same answer is nothing to vote on
    lefts = {p.left for seed in range(8) for p in pairings([one, other], PROMPTS, seed=seed)}
    assert lefts == {"one", "two"}
    assert pairs == list(pairings([one, other], PROMPTS, seed=1))
    assert pairs != list(pairings([one, other], PROMPTS, seed=2))
    for pair in pairs:
        assert pair.left_text == {"one": "x", "two": "y"}[pair.left]
    chosen = pairs[0].vote("left")
    assert (chosen.left, chosen.winner, chosen.by) == (pairs[0].left, "left", "person")


def test_a_judge_must_agree_with_itself():
    one, other = contestant("one", "good"), contestant("two", "bad")
    pairs = list(pairings([one, other], PROMPTS[:1]))

    def by_content(task: str) -> str:
        first = task.split("Answer A:\n")[1].split("\n", maxsplit=1)[0]
        return json.dumps({"winner": "A" if first == "good" else "B"})

    fair = judged(Scripted(by_content, "fair"), pairs)
    assert fair.n_consistent == 1
    side = {"left": pairs[0].left, "right": pairs[0].right}[fair.votes[0].winner]
    assert (side, fair.votes[0].by) == ("one", "fair")
    biased = judged(Scripted(lambda _: '{"winner": "A"}', "first"), pairs)
    assert (biased.n_consistent, biased.votes[0].winner) == (0, "tie")
    with pytest.raises(LlamuneError, match="no verdict"):
        judged(Scripted(lambda _: "A is better"), pairs)


def test_a_model_is_loaded_for_its_own_round_only():
    loaded = 0

    @contextmanager
    def opening() -> Iterator[Scripted]:
        nonlocal loaded
        loaded += 1
        yield Scripted(str.upper)
        loaded -= 1

    found = rounds("one", opening, PROMPTS, None, size_bytes=5)  # type: ignore[arg-type]
    assert loaded == 0
    assert [answer.text for answer in found.answers] == [f"QUESTION {n}" for n in range(4)]
    assert found.memory_bytes is not None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "one\n\ntwo\n"),
        ("p.json", '["one", "two"]'),
        ("p.jsonl", '{"prompt": "one", "completion": "1"}\n{"prompt": "two", "completion": "2"}\n'),
    ],
)
def test_prompts_come_in_three_forms(tmp_path: Path, name: str, text: str):
    path = tmp_path / name
    path.write_text(text)
    assert [prompt[-1]["content"] for prompt in read_prompts(path)] == ["one", "two"]


def test_a_file_without_prompts_is_refused(tmp_path: Path):
    path = tmp_path / "p.txt"
    path.write_text("\n")
    with pytest.raises(LlamuneError, match="no prompt"):
        read_prompts(path)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_shows_answers_and_figures(language: str):
    models = [contestant("one", "<b>x</b>"), contestant("two", "y")]
    ratings = ratings_of([vote("one", "two", "left")] * 8)
    page = compare_report(models, PROMPTS[:1], ratings=ratings, language=language)
    assert "&lt;b&gt;x" in page
    assert "<b>x" not in page
    assert "20.0" in page
    assert "1.00 GiB" in page
    assert f"{ratings[0].rating:.0f} [" in page
