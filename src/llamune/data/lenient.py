"""JSON as people paste it: `//` and `/* */` comments and trailing commas blanked out."""

from __future__ import annotations

import re

__all__ = ["blank_out"]

# A text is matched first, so that what looks like a comment inside it stays.
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
TRAILING = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[\]}])', re.DOTALL)


def blank_out(text: str) -> str:
    """Return `text` with comments and trailing commas turned to blanks.

    Every other character keeps its place, so line numbers stay true.
    """
    return TRAILING.sub(blanks, TOKEN.sub(blanks, text))


def blanks(match: re.Match[str]) -> str:
    """Return a text as it is, and anything else as blanks with its line ends kept."""
    found = match[0]
    return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)
