"""The vote page and the error browser in a real browser."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from llamune.evaluate import (
    METRICS,
    Evaluation,
    Item,
    Outcome,
    compare_report,
    html_report,
    score_of,
    vote_page,
)
from llamune.serve.voting import VotePage
from tests.concurrency import PATIENCE_SECONDS
from tests.evaluate.test_compare import PROMPTS, contestant

CHROMIUM = Path("/usr/bin/chromium")
PAIRS = [
    {"prompt": f"question {number}", "left": f"<b>left</b> {number}", "right": f"right {number}"}
    for number in range(3)
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield opened
        opened.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    page = chromium.new_page()
    yield page
    page.close()


@pytest.fixture
def votes() -> Iterator[tuple[VotePage, list[tuple[int, str]]]]:
    cast: list[tuple[int, str]] = []
    page = VotePage(vote_page("en"), PAIRS, lambda place, choice: cast.append((place, choice)))
    yield page, cast
    page.close()


def test_a_person_votes_on_the_page(browser: Any, votes: tuple[VotePage, list[tuple[int, str]]]):
    page, cast = votes
    browser.goto(page.address)
    browser.wait_for_selector("#vote:not([hidden])")
    assert browser.inner_text("#prompt") == "question 0"
    assert browser.inner_text("#left") == "<b>left</b> 0"  # text, never markup
    browser.click("button[value=left]")
    browser.wait_for_selector("#count:text-is('2 / 3')")
    browser.keyboard.press("2")
    browser.wait_for_selector("#count:text-is('3 / 3')")
    browser.keyboard.press("0")
    browser.wait_for_selector("#done:not([hidden])")
    assert cast == [(0, "left"), (1, "right"), (2, "tie")]
    assert page.finished.is_set()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", None, 404),
        ("GET", "/guess/pair", None, 404),
        ("POST", "/guess/vote", '{"place": 0, "choice": "left"}', 404),
        ("POST", "{secret}vote", '{"place": 1, "choice": "left"}', 400),
        ("POST", "{secret}vote", '{"place": 0, "choice": "both"}', 400),
        ("POST", "{secret}vote", "nonsense", 400),
        ("POST", "{secret}vote", "x" * 2000, 404),
    ],
)
def test_nobody_else_votes(
    votes: tuple[VotePage, list[tuple[int, str]]],
    method: str,
    path: str,
    body: str | None,
    status: int,
):
    page, cast = votes
    parts = urlsplit(page.address)
    assert parts.hostname == "127.0.0.1"
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_SECONDS)
    connection.request(method, path.replace("{secret}", parts.path), body)
    assert connection.getresponse().status == status
    connection.close()
    assert cast == []


def evaluation() -> Evaluation:
    items = [Item(messages=tuple(PROMPTS[n]), expected=("x",), where=f"t:{n}") for n in range(4)]
    outcomes = [Outcome(answer=f"answer {n}", score=float(n % 2)) for n in range(4)]
    return Evaluation(
        model="m",
        baseline=None,
        task="t",
        metric=METRICS["exact"],
        items=tuple(items),
        outcomes=tuple(outcomes),
        baseline_outcomes=None,
        score=score_of("t", METRICS["exact"], [outcome.score for outcome in outcomes]),
        comparison=None,
        training_run=None,
        overlaps=(),
        last=None,
        since_last=None,
    )


def test_the_error_browser_filters(browser: Any, tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text(html_report(evaluation(), language="en"), encoding="utf-8")
    faults: list[str] = []
    browser.on("pageerror", lambda error: faults.append(str(error)))
    browser.goto(path.as_uri())
    rows = browser.locator("tbody.items tr:visible")
    assert rows.count() == 4
    browser.check("input[value=wrong]")
    assert rows.count() == 2
    assert "answer 0" in rows.first.inner_text()
    browser.fill("#search", "ANSWER 2")
    assert rows.count() == 1
    browser.check("input[value=right]")
    assert rows.count() == 0
    assert faults == []


def test_the_comparison_opens_without_a_fault(browser: Any, tmp_path: Path):
    path = tmp_path / "compare.html"
    models = [contestant("one", "x"), contestant("two", "y")]
    path.write_text(compare_report(models, PROMPTS[:1], language="ja"), encoding="utf-8")
    asked: list[str] = []
    browser.on("request", lambda request: asked.append(request.url))
    browser.goto(path.as_uri())
    assert "モデル" in browser.inner_text("body")
    assert asked == [path.as_uri()]  # nothing is loaded from anywhere
