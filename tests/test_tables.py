"""The tables of the guide say what the committed results say."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks._tables import MARKED, filled

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [
    page for page in sorted(DOCS.rglob("*.md")) if MARKED.search(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_tables_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run `python -m benchmarks._tables`"
