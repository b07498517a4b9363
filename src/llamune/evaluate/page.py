"""The frame of our HTML pages: self-contained, nothing loaded from anywhere, every text escaped."""

from __future__ import annotations

from html import escape
from typing import Final

__all__ = ["page"]

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --good: #2a7; --bad: #c33; }
body { font: 15px/1.6 system-ui, "Hiragino Sans", "Noto Sans JP", sans-serif; margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .6rem; text-align: left;
  vertical-align: top; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.right td.number { color: var(--good); }
tr.wrong td.number { color: var(--bad); }
.controls { display: flex; gap: 1rem; flex-wrap: wrap; margin: 1rem 0; }
.note { color: var(--bad); }
"""


def page(*, title: str, language: str, body: str, script: str = "") -> str:
    """Return a whole page.

    Args:
        title: plain text.
        language: `en` or `ja`.
        body: HTML, its texts escaped already.
        script: JavaScript of the page.
    """
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'"
    )
    return (
        "<!doctype html>\n"
        f'<html lang="{language}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n"
        f"<script>{script}</script></body></html>\n"
    )
