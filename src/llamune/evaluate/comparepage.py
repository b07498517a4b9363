"""A comparison as a page: the models' figures, and their answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from llamune.evaluate.page import page
from llamune.evaluate.ratings import Rating
from llamune.evaluate.sidebyside import Contestant
from llamune.words import Catalogue, catalogue

__all__ = ["compare_report", "figures_of", "vote_page"]

GIB = 1 << 30
DASH = "–"


VOTE_SCRIPT = """
let place = 0;
const show = async () => {
  const pair = await (await fetch("pair")).json();
  place = pair.place;
  const done = pair.left === undefined;
  document.querySelector("#vote").hidden = done;
  document.querySelector("#done").hidden = !done;
  if (done) return;
  for (const key of ["prompt", "left", "right"])
    document.querySelector("#" + key).textContent = pair[key];
  document.querySelector("#count").textContent = `${pair.place + 1} / ${pair.n}`;
};
const cast = async (choice) => {
  await fetch("vote", {method: "POST", body: JSON.stringify({place, choice})});
  await show();
};
for (const button of document.querySelectorAll("button"))
  button.addEventListener("click", () => cast(button.value));
document.addEventListener("keydown", (event) => {
  const choice = {"1": "left", "2": "right", "0": "tie"}[event.key];
  if (choice) cast(choice);
});
show();
"""


def vote_page(language: str | None = None) -> str:
    """Return the page of a blind vote; it asks `pair` and posts to `vote` beside it."""
    words = catalogue("evaluate", language)
    buttons = "".join(
        f'<button value="{value}">{escape(words(key))}</button> '
        for value, key in (("left", "left"), ("tie", "tie"), ("right", "right_side"))
    )
    body = (
        '<div id="vote" hidden><p id="count"></p><p class="text" id="prompt"></p>'
        '<table><tr><td class="text" id="left"></td><td class="text" id="right"></td></tr></table>'
        f'<div class="controls">{buttons}</div></div>'
        f'<p id="done" hidden>{escape(words("vote_done"))}</p>'
    )
    return page(title=words("vote_title"), language=words.language, body=body, script=VOTE_SCRIPT)


def figures_of(contestant: Contestant, rating: Rating | None) -> list[str]:
    """Return a model's figures as texts: size, memory, speed, first token, tokens, rating."""
    speed, first = contestant.tokens_per_second, contestant.first_piece_seconds
    return [
        gib(contestant.size_bytes),
        gib(contestant.memory_bytes),
        DASH if speed is None else f"{speed:.1f}",
        DASH if first is None else f"{first:.2f} s",
        str(contestant.n_tokens),
        DASH if rating is None else f"{rating.rating:.0f} [{rating.low:.0f}, {rating.high:.0f}]",
    ]


def gib(n_bytes: int | None) -> str:
    """Return bytes in GiB."""
    return DASH if n_bytes is None else f"{n_bytes / GIB:.2f} GiB"


def compare_report(
    contestants: Sequence[Contestant],
    prompts: Sequence[Sequence[dict[str, Any]]],
    *,
    ratings: Sequence[Rating] = (),
    language: str | None = None,
) -> str:
    """Return a comparison as a self-contained page.

    Args:
        contestants: the models with their answers.
        prompts: what they were asked.
        ratings: of the votes so far.
        language: `en` or `ja`; default the locale's.
    """
    words = catalogue("evaluate", language)
    title = words("compare_title", n=len(contestants), m=len(prompts))
    body = figures_table(contestants, ratings, words) + answers_table(contestants, prompts, words)
    return page(title=title, language=words.language, body=body)


def figures_table(
    contestants: Sequence[Contestant], ratings: Sequence[Rating], words: Catalogue
) -> str:
    """Return what each model costs, and its rating."""
    rated = {rating.model: rating for rating in ratings}
    keys = ("model", "size", "memory", "speed", "first_token", "tokens", "rating")
    head = "".join(f"<th>{escape(words(key))}</th>" for key in keys)
    rows = ""
    for one in contestants:
        cells = "".join(
            f'<td class="number">{escape(text)}</td>'
            for text in figures_of(one, rated.get(one.name))
        )
        rows += f"<tr><td>{escape(one.name)}</td>{cells}</tr>"
    return f"<table><tr>{head}</tr>{rows}</table>"


def answers_table(
    contestants: Sequence[Contestant],
    prompts: Sequence[Sequence[dict[str, Any]]],
    words: Catalogue,
) -> str:
    """Return every prompt with the answers side by side."""
    names = "".join(f"<th>{escape(one.name)}</th>" for one in contestants)
    rows = ""
    for place, prompt in enumerate(prompts):
        answers = "".join(
            f'<td class="text">{escape(one.answers[place].text)}</td>' for one in contestants
        )
        rows += f'<tr><td class="text">{escape(str(prompt[-1]["content"]))}</td>{answers}</tr>'
    return f"<table><tr><th>{escape(words('prompt'))}</th>{names}</tr>{rows}</table>"
