"""Full texts of the standard licences, from the data of the package `pychoosealicense`.

Source: choosealicense.com, whose texts that package carries; `tests/package` holds them against
other copies, word for word.
"""

from __future__ import annotations

import re

__all__ = ["has_blank", "names_its_holder", "standard_text"]

STANDARD = frozenset({"Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "MIT"})
BLANK = "Copyright (c) {year} {fullname}"  # how that package marks the line
HOLDER = re.compile(r"^\W*copyright\b.*\w", re.IGNORECASE | re.MULTILINE)


def standard_text(identifier: str, *, copyright_line: str | None) -> str | None:
    """Return the full text of a licence.

    Args:
        identifier: its SPDX id.
        copyright_line: as the base has it, for a text with a blank for it; None where unknown.

    Returns:
        The text; None where the licence is no standard one, or its blank cannot be filled.
    """
    text = printed(identifier)
    if text is None or BLANK not in text:
        return text
    return None if copyright_line is None else text.replace(BLANK, copyright_line)


def has_blank(identifier: str) -> bool:
    """Whether a licence is a standard one whose text has a blank for the copyright line."""
    return BLANK in (printed(identifier) or "")


def printed(identifier: str) -> str | None:
    """Return a standard licence's text with its blanks, None for others."""
    if identifier not in STANDARD:
        return None
    from pychoosealicense import get_license

    return get_license(identifier).content.rstrip() + "\n"


def names_its_holder(text: str) -> bool:
    """Whether a licence text has a line that says whose copyright it is."""
    return HOLDER.search(text) is not None
