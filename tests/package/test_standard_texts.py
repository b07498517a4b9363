"""The standard licence texts that a package brings along."""

from __future__ import annotations

from pathlib import Path

from llamune.license import of_text
from llamune.package.standard_texts import standard_text


def test_standard_texts_are_those_of_other_collections_word_for_word() -> None:
    import license_expression

    folder = Path(license_expression.__file__).parent / "data"
    others = {
        "Apache-2.0": Path("LICENSE").read_text(),
        "CC-BY-4.0": (folder / "cc-by-4.0.LICENSE").read_text(),
    }
    for identifier, wanted in others.items():
        found = standard_text(identifier, copyright_line=None)
        assert found is not None
        assert found.split() == wanted.split()


def test_every_standard_text_is_recognised_as_itself() -> None:
    for identifier in ("Apache-2.0", "MIT", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0"):
        text = standard_text(identifier, copyright_line="Copyright (c) 2024 Somebody")
        assert [record.id for record in of_text(text or "")] == [identifier]
        assert "{" not in (text or "")
    assert standard_text("MIT", copyright_line=None) is None
    assert standard_text("LicenseRef-Gemma", copyright_line="Copyright") is None
