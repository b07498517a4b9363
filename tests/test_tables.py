"""The tables of the guide and of the README say what the committed results say."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks._tables import MARKED, PAGES, filled

ROOT = Path(__file__).parents[1]
WITH_TABLES = [page for page in PAGES if MARKED.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", WITH_TABLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run `python -m benchmarks._tables`"
