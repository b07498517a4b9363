"""Which language a text is in: by its script where that tells, else by py3langid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache

import regex

from llamune.data.findings import Flaw
from llamune.data.records import Record

__all__ = ["foreign_answers", "language_of"]

SHORTEST_LETTERS = 30
"""Letters: below this the statistics of an alphabet say little."""

PROSE_SHARE = 0.85
"""Letters and blanks among all characters: with fewer it is code or a table, in no language."""

SHORTEST_HAN = 20
SAMPLE_CHARACTERS = 160
KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
HAN = regex.compile(r"\p{Han}")
HANGUL = regex.compile(r"\p{Hangul}")
LETTER = regex.compile(r"\p{L}")
CODE = regex.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|https?://\S+", regex.DOTALL)
ENGLISH = frozenset(
    regex.findall(
        r"\w+",
        """the of and a to in is you that it he was for on are with as i his they be at this have
        from or by but what we can your if will an all were how not there which do about my has""",
    )
)
ENGLISH_SHARE = 0.25
"""Function words among all words from which text is English without asking further."""

SCRIPTS = ("ja", "ko", "zh")
LANGUAGES = [
    *("ar", "bg", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id"),
    *("it", "ja", "ko", "nl", "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh"),
]


@cache
def identifier() -> Callable[[str], tuple[str, float]]:
    """Return the identifier, its languages narrowed to those that data sets come in."""
    from py3langid import langid

    langid.set_languages(LANGUAGES)
    classify: Callable[[str], tuple[str, float]] = langid.classify
    return classify


@lru_cache(maxsize=16)  # a record's answer is asked about more than once
def language_of(text: str) -> str:
    """Return the ISO 639-1 code of a text's language; empty where it is too short to tell.

    Kana tells Japanese and Hangul Korean before anything else is asked: a share of a tenth is
    enough, since Japanese text mixes in much else.
    """
    sample = CODE.sub(" ", text[: 4 * SAMPLE_CHARACTERS])[:SAMPLE_CHARACTERS]
    n_letters = len(LETTER.findall(sample))
    script = "" if sample.isascii() else language_of_script(sample, n_letters)
    if script or not n_letters:
        return script
    n_blanks = sum(map(str.isspace, sample))
    if n_letters < SHORTEST_LETTERS or n_letters + n_blanks < PROSE_SHARE * len(sample):
        return ""
    words = sample.lower().split()
    if sum(word in ENGLISH for word in words) >= ENGLISH_SHARE * len(words):
        return "en"
    found = str(identifier()(sample)[0])
    return "" if found in SCRIPTS else found


def language_of_script(sample: str, n_letters: int) -> str:
    """Return the language that kana, Hangul or Han tell; empty where they do not.

    Args:
        sample: the start of a text.
        n_letters: letters in it.
    """
    n_kana, n_han = len(KANA.findall(sample)), len(HAN.findall(sample))
    if n_kana and n_kana + n_han >= n_letters / 3 and 10 * n_kana >= n_kana + n_han:
        return "ja"
    if 3 * len(HANGUL.findall(sample)) >= n_letters:
        return "ko"
    return "zh" if n_han >= SHORTEST_HAN and 3 * n_han >= 2 * n_letters else ""


def foreign_answers(record: Record) -> Iterator[Flaw]:
    """Find answers in another language than the turn before them."""
    for place, turn in enumerate(record.messages):
        if turn.role != "assistant" or not place:
            continue
        asked = language_of(record.messages[place - 1].content)
        told = language_of(turn.content)
        if asked and told and asked != told and record.messages[place - 1].role == "user":
            yield Flaw(
                kind="language",
                field=f"messages[{place}]",
                detail=f"asked in {asked}, told in {told}",
            )
