"""Unicode as llama.cpp's pre-tokenizers see it: version 15.1, whatever our own libraries know.

A character that Unicode gained later is a letter to a newer library and nothing to llama.cpp,
and the tokens after it would differ. `as_of_15_1` hides such characters from our patterns.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

__all__ = ["WHITE_SPACE", "as_of_15_1", "surrogate_at", "white_space_as_tab"]

# the White_Space property, for use inside a character class
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NOTHING = "\ufdd0"  # a noncharacter: unassigned for ever
BEYOND_FIRST_PLANE = re.compile("[\U00010000-\U0010ffff]")
SURROGATE = re.compile("[\ud800-\udfff]")
WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


@cache
def unassigned() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns for what Unicode 15.1 leaves unassigned: in the first plane, and beyond.

    The file beside this module lists the ranges of category Cn, as Python 3.13's `unicodedata`
    (15.1.0) has them.
    """
    text = resources.files("llamune.text").joinpath("unassigned-15.1.txt").read_text("ascii")
    first: list[str] = []
    beyond: list[str] = []
    for span in text.split():
        start, _, end = span.partition("-")
        low, high = int(start, 16), int(end or start, 16)
        (first if high < 0x10000 else beyond).append(f"{chr(low)}-{chr(high)}")
    return re.compile(f"[{''.join(first)}]"), re.compile(f"[{''.join(beyond)}]")


def as_of_15_1(text: str) -> str:
    """Return `text` of the same length, what Unicode 15.1 does not know made a noncharacter."""
    if text.isascii():
        return text
    first, beyond = unassigned()
    if first.search(text):
        text = first.sub(NOTHING, text)
    # two steps: a class that spans all planes is searched range by range, hence slowly
    if BEYOND_FIRST_PLANE.search(text):
        text = beyond.sub(NOTHING, text)
    return text


def white_space_as_tab(text: str) -> str:
    """Return `text` of the same length, white space beyond ASCII made a vertical tab.

    llama.cpp does so before patterns that name characters but no categories.
    """
    return text if text.isascii() else WIDE_SPACE.sub("\v", text)


def surrogate_at(text: str) -> int:
    """Return the index of the first lone surrogate, which no UTF-8 text can hold; -1 if none."""
    found = SURROGATE.search(text)
    return found.start() if found else -1
