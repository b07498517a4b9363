"""The catalogue of sentences in reports and pages, in English and Japanese.

Each `words/<topic>.toml` holds one table per key with an `en` and a `ja` text, which may name
fields: `[title]` / `en = "Run {name}"` / `ja = "実行 {name}"`. CLI messages stay English and
are not here.
"""

from __future__ import annotations

import locale
import os
import string
import tomllib
from functools import cache
from importlib import resources

from llamune.errors import LlamuneError

__all__ = ["LANGUAGES", "Catalogue", "catalogue", "language_of_locale", "topics"]

LANGUAGES = ("en", "ja")


class Catalogue:
    """The sentences of one topic in one language.

    `words("title", name="x")` fills in the text of `[title]`.
    """

    def __init__(self, topic: str, language: str, texts: dict[str, str]) -> None:
        self.topic = topic
        self.language = language
        self.texts = texts

    def __call__(self, key: str, /, **fields: object) -> str:
        """Return the text of `key` with its fields filled in.

        Raises:
            KeyError: the catalogue has no such key, or the text names a field not given.
        """
        return self.texts[key].format(**fields)


def catalogue(topic: str, language: str | None = None) -> Catalogue:
    """Return the sentences of `topic`.

    Args:
        topic: the name of a file in this folder, without its ending.
        language: `en` or `ja`; default the locale's.

    Raises:
        LlamuneError: the language is not one of `LANGUAGES`.
    """
    chosen = language or language_of_locale()
    if chosen not in LANGUAGES:
        raise LlamuneError(
            f"language {chosen!r} is not known", hint=f"one of: {', '.join(LANGUAGES)}"
        )
    texts = {key: entry[chosen] for key, entry in entries(topic).items()}
    return Catalogue(topic, chosen, texts)


@cache
def entries(topic: str) -> dict[str, dict[str, str]]:
    """Return every key of `topic` with its text in each language."""
    text = resources.files(__name__).joinpath(f"{topic}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def topics() -> list[str]:
    """Return the names of all topics."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".toml")
    )


def fields_of(text: str) -> set[str]:
    """Return the names of the fields that a text expects."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def language_of_locale() -> str:
    """Return `ja` when the person's locale is Japanese, else `en`."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return "ja" if value.startswith("ja") else "en"
    language = locale.getlocale()[0] or ""
    return "ja" if language.startswith(("ja", "Japanese")) else "en"
