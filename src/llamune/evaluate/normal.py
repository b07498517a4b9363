"""Texts made comparable: widths, punctuation and spaces that do not change an answer."""

from __future__ import annotations

import unicodedata

import regex

__all__ = ["normalised", "words_of"]

# after NFKC, which makes full-width letters, digits and ！？：（） narrow
PUNCTUATION = str.maketrans(
    {
        "。": ".",
        "、": ",",
        "・": "·",
        "「": '"',
        "」": '"',
        "『": '"',
        "』": '"',
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "〜": "~",
        "‐": "-",
        "‑": "-",
        "–": "-",
        "—": "-",
        "−": "-",
    }
)
SPACES = regex.compile(r"\s+")
CJK = r"[\p{Han}\p{Hiragana}\p{Katakana}ー々]"
BETWEEN_CJK = regex.compile(rf"(?<={CJK}) (?={CJK})")
EDGES = " .,!?\"'`*"
WORDS = regex.compile(rf"{CJK}|[\p{{L}}\p{{N}}_]+(?:'[\p{{L}}]+)?")


def normalised(text: str) -> str:
    """Return a text without what does not change an answer.

    Unicode NFKC, lower case, one kind of each punctuation mark, single spaces (none between
    Japanese or Chinese characters), no punctuation or quotes around it.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().translate(PUNCTUATION)
    return str(BETWEEN_CJK.sub("", SPACES.sub(" ", plain))).strip(EDGES)


def words_of(text: str) -> list[str]:
    """Split a text into words; Japanese and Chinese, which have no spaces, into characters."""
    return list(WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))
