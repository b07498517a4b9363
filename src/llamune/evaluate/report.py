"""An evaluation as a page: what was asked, expected and said, with filters."""

from __future__ import annotations

from html import escape

from llamune.evaluate.evaluation import Evaluation
from llamune.evaluate.forgetting import Forgetting
from llamune.evaluate.page import page
from llamune.evaluate.scores import Comparison
from llamune.words import Catalogue, catalogue

__all__ = ["html_report", "verdict_in_words"]

SCRIPT = """
const rows = [...document.querySelectorAll("tbody.items tr")];
const choose = () => {
  const kind = document.querySelector("input[name=kind]:checked").value;
  const wanted = document.querySelector("#search").value.toLowerCase();
  for (const row of rows) {
    const fits = kind === "all" || row.classList.contains(kind);
    row.hidden = !fits || !row.textContent.toLowerCase().includes(wanted);
  }
};
document.querySelector(".controls").addEventListener("input", choose);
"""


def html_report(
    found: Evaluation, lost: Forgetting | None = None, *, language: str | None = None
) -> str:
    """Return an evaluation as a self-contained page.

    Args:
        found: the evaluation.
        lost: the general suite, where it was run.
        language: `en` or `ja`; default the locale's.
    """
    words = catalogue("evaluate", language)
    title = words("title", model=found.model, task=found.task)
    parts = [summary(found, words)]
    if lost is not None:
        parts.append(forgetting_table(lost, words))
    parts += [controls(found, words), items_table(found, words)]
    return page(title=title, language=words.language, body="\n".join(parts), script=SCRIPT)


def verdict_in_words(comparison: Comparison, words: Catalogue) -> str:
    """Return what may be said of a comparison."""
    difference = comparison.difference
    if comparison.verdict != "cannot tell":
        return words(comparison.verdict, p=difference.p_value, test=difference.test)
    if difference.n_more_items is None:
        return words("no_difference")
    return words("cannot_tell", n=difference.n_more_items)


def difference(comparison: Comparison, words: Catalogue) -> str:
    """Return how the scores differ, with the interval."""
    found = comparison.difference
    return words("difference", mean=found.mean, low=found.interval.low, high=found.interval.high)


def summary(found: Evaluation, words: Catalogue) -> str:
    """Return scores, verdict and warnings as paragraphs."""
    score = found.score
    lines = [
        words(
            "score",
            metric=score.metric,
            mean=score.mean,
            low=score.low,
            high=score.high,
            n=score.n,
        )
    ]
    if found.comparison is not None:
        old = found.comparison.before
        lines.append(
            words("baseline", model=found.baseline, mean=old.mean, low=old.low, high=old.high)
        )
        lines += [difference(found.comparison, words), verdict_in_words(found.comparison, words)]
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if found.training_run is None:
        return text
    key = "overlap" if found.overlaps else "no_overlap"
    said = words(key, n=len(found.overlaps), run=found.training_run)
    return f"{text}<p{' class=note' if found.overlaps else ''}>{escape(said)}</p>"


def forgetting_table(lost: Forgetting, words: Catalogue) -> str:
    """Return the general suite by category."""
    comparison = lost.comparison
    head = words("forgetting", before=comparison.before.mean, after=comparison.after.mean)
    cells = "".join(f"<th>{escape(words(key))}</th>" for key in ("category", "before", "after"))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        f'<td class="number">{before:.2f}</td><td class="number">{after:.2f}</td></tr>'
        for name, (before, after) in lost.categories.items()
    )
    change = escape(difference(comparison, words))
    verdict = escape(verdict_in_words(comparison, words))
    return (
        f"<h2>{escape(head)}</h2><p>{change}<br>{verdict}</p><table><tr>{cells}</tr>{rows}</table>"
    )


def controls(found: Evaluation, words: Catalogue) -> str:
    """Return the filters."""
    kinds = ["all", "wrong", "right"]
    if found.baseline_outcomes is not None:
        kinds.append("changed")
    choices = "".join(
        f'<label><input type="radio" name="kind" value="{kind}"'
        f"{' checked' if kind == 'all' else ''}> {escape(words(kind))}</label>"
        for kind in kinds
    )
    search = escape(words("search"))
    return f'<div class="controls">{choices}<input id="search" placeholder="{search}"></div>'


def items_table(found: Evaluation, words: Catalogue) -> str:
    """Return every item with its answers."""
    heads = ["question", "expected"]
    if found.baseline_outcomes is not None:
        heads.append("base_answer")
    heads += ["answer", "points"]
    head = "".join(f"<th>{escape(words(key))}</th>" for key in heads)
    rows = "".join(item_row(found, place, words) for place in range(len(found.items)))
    return f'<table><thead><tr>{head}</tr></thead><tbody class="items">{rows}</tbody></table>'


def item_row(found: Evaluation, place: int, words: Catalogue) -> str:
    """Return one item as a table row; its classes are what the filters look at."""
    item, outcome = found.items[place], found.outcomes[place]
    classes = ["right" if found.is_right(place) else "wrong"]
    seen = any(one.place == place for one in found.overlaps)
    points = f"{outcome.score:.3f}"
    note = f'<br><span class="note">{escape(words("seen"))}</span>' if seen else ""
    cells = [
        f'<td class="text">{escape(item.question)}{note}</td>',
        f'<td class="text">{escape(item.expected[0])}</td>',
    ]
    if found.baseline_outcomes is not None:
        old = found.baseline_outcomes[place]
        if old.answer != outcome.answer:
            classes.append("changed")
        cells.append(f'<td class="text">{escape(old.answer)}</td>')
        points = f"{old.score:.3f} → {points}"
    cells.append(f'<td class="text">{escape(outcome.answer)}</td>')
    cells.append(f'<td class="number">{points}</td>')
    return f'<tr class="{" ".join(classes)}">{"".join(cells)}</tr>'
