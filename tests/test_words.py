"""The catalogue of report sentences is complete in every language."""

from __future__ import annotations

import pytest

from llamune import words
from llamune.errors import LlamuneError

TEXTS = [(topic, key) for topic in words.topics() for key in words.entries(topic)]


@pytest.mark.parametrize(("topic", "key"), TEXTS)
def test_every_key_is_translated_with_the_same_fields(topic: str, key: str) -> None:
    entry = words.entries(topic)[key]
    assert set(entry) == set(words.LANGUAGES)
    assert all(text.strip() for text in entry.values())
    fields = {language: words.fields_of(text) for language, text in entry.items()}
    assert len({frozenset(names) for names in fields.values()}) == 1, fields


def test_the_locale_chooses_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ja_JP.UTF-8")
    assert words.language_of_locale() == "ja"
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert words.language_of_locale() == "en"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(LlamuneError, match="'xx' is not known"):
        words.catalogue("report", "xx")
