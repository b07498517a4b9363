"""A check's report as one HTML page, in English or Japanese, without anything from the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from llamune.data.findings import Finding
from llamune.data.report import PURPOSES, Lengths, Report
from llamune.words import Catalogue, catalogue

__all__ = ["page"]

STYLE = """
:root { color-scheme: light dark; --line: #8885; --bar: #4a7ebb; --error: #c0392b;
  --warning: #b9770e; --note: #5d6d7e; }
body { font: 16px/1.6 system-ui, "Hiragino Sans", "Noto Sans JP", sans-serif; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bar { background: var(--bar); height: .8rem; min-width: 1px }
section.finding { border-left: .3rem solid var(--note); padding-left: 1rem; margin: 1.2rem 0 }
section.error { border-color: var(--error) } section.warning { border-color: var(--warning) }
code { background: #8882; padding: .1rem .3rem; overflow-wrap: anywhere }
footer { color: var(--note); margin-top: 3rem; font-size: .85rem }
"""


def page(report: Report, *, language: str | None = None) -> str:
    """Return the report as HTML.

    Args:
        report: the result of a check.
        language: `en` or `ja`; default the locale's.

    Raises:
        LlamuneError: the language is not one of these.
    """
    words = catalogue("data", language)
    title = escape(words("title"))
    parts = [
        f'<!doctype html>\n<html lang="{words.language}">\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>",
        facts(report, words),
        heading(words("findings")),
        *[finding_section(finding, words) for finding in report.findings],
    ]
    if len(report.findings) > 1 and report.fix:
        parts.append(f"<p>{escape(words('fix_all'))}: <code>{escape(report.fix)}</code></p>")
    if not report.findings:
        parts.append(f"<p>{escape(words('nothing'))}</p>")
    parts += [
        histogram(report.lengths, words),
        heading(words("languages")),
        counts_table(
            {name or words("language_unknown"): n for name, n in report.languages.items()}
        ),
    ]
    if len(report.sources) > 1:
        parts += [heading(words("sources")), counts_table(report.sources)]
    parts += [f"<p>{escape(note)}</p>" for note in report.notes]
    parts.append(f"<footer>{escape(words('footer', seconds=f'{report.seconds:.1f}'))}</footer>")
    return "\n".join(parts) + "\n</html>\n"


def heading(text: str) -> str:
    """Return a heading."""
    return f"<h2>{escape(text)}</h2>"


def table(rows: Iterable[Iterable[str]], head: Iterable[str] = ()) -> str:
    """Return a table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{top}</tr>' if top else ''}\n{body}</table>"


def facts(report: Report, words: Catalogue) -> str:
    """Return the table of what was read."""
    rows = [
        (words("records"), f"{report.n_records:,}"),
        (words("unreadable"), f"{report.n_unreadable:,}"),
        (
            words("clean_share"),
            f"{report.clean_share:.1%} = {words('clean_share_formula')}",
        ),
        (words("formats"), ", ".join(f"{name} {n:,}" for name, n in report.formats.items())),
    ]
    if report.model:
        rows.append((words("model"), report.model))
    if report.purpose:
        low, high = PURPOSES[report.purpose]
        said = words(f"purpose_{report.purpose}", low=f"{low:,}", high=f"{high:,}")
        rows.append((words("purpose"), said))
    files = table(
        [
            [escape(file["path"]), escape(file["kind"]), escape(file["encoding"])]
            for file in report.files
        ],
        [escape(words(name)) for name in ("file", "kind", "encoding")],
    )
    shown = table([[f"<b>{escape(name)}</b>", escape(value)] for name, value in rows])
    return f"{shown}\n{heading(words('files'))}\n{files}"


def finding_section(finding: Finding, words: Catalogue) -> str:
    """Return one finding with its examples."""
    severity = words(f"severity_{finding.severity}")
    title = f"{severity}: {words(f'kind_{finding.kind}')}"
    parts = [
        f'<section class="finding {finding.severity}"><h3>{escape(title)}</h3>',
        f"<p><code>{escape(finding.kind)}</code> "
        f"{escape(words('count', count=f'{finding.count:,}'))}</p>",
    ]
    if finding.summary:
        parts.append(f"<p>{escape(finding.summary)}</p>")
    if finding.examples:
        rows = [
            [
                escape(example.source.path),
                str(example.source.number),
                str(example.source.line or ""),
                escape(example.detail),
            ]
            for example in finding.examples
        ]
        head = [escape(words(name)) for name in ("file", "record", "line", "detail")]
        parts.append(table(rows, head))
        if (left := finding.count - len(finding.examples)) > 0:
            parts.append(f"<p>{escape(words('more', count=f'{left:,}'))}</p>")
    if finding.fix:
        parts.append(f"<p>{escape(words('fix'))}: <code>{escape(finding.fix)}</code></p>")
    return "\n".join([*parts, "</section>"])


def histogram(lengths: Lengths, words: Catalogue) -> str:
    """Return the lengths as bars."""
    said = words(
        "lengths_summary",
        total=f"{lengths.total:,}",
        mean=f"{lengths.mean:,.1f}",
        median=f"{lengths.median:,.0f}",
        percentile95=f"{lengths.percentile95:,.0f}",
        longest=f"{lengths.longest:,}",
    )
    parts = [heading(words(f"lengths_{lengths.unit}")), f"<p>{escape(said)}</p>"]
    if lengths.limit:
        n_records = sum(lengths.counts) or 1
        beyond = words(
            "limit",
            limit=f"{lengths.limit:,}",
            count=f"{lengths.n_beyond:,}",
            share=f"{lengths.n_beyond / n_records:.1%}",
        )
        parts.append(f"<p>{escape(beyond)}</p>")
    ranges = zip(lengths.edges, lengths.edges[1:], strict=False)
    named = {
        f"{low:,}–{high - 1:,}": n for (low, high), n in zip(ranges, lengths.counts, strict=True)
    }
    return "\n".join([*parts, counts_table(named)])


def counts_table(counts: Mapping[str, int]) -> str:
    """Return counts with a bar each."""
    most = max(counts.values(), default=0) or 1
    rows = "\n".join(
        f'<tr><td>{escape(name)}</td><td class="n">{count:,}</td><td style="width:60%">'
        f'<div class="bar" style="width:{100 * count / most:.1f}%"></div></td></tr>'
        for name, count in counts.items()
    )
    return f"<table>{rows}</table>"
