"""Personal data and secrets: found by form and, where there is one, by check digit.

Sources: My Number's check digit, Ordinance of the Ministry of Internal Affairs No. 85 of 2014,
article 5; payment cards, ISO/IEC 7812-1 (Luhn).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

from llamune.data.characters import texts_of
from llamune.data.findings import Flaw
from llamune.data.records import Record

__all__ = ["is_my_number", "luhn", "personal_data", "personal_spans", "plain_width"]

HYPHENS = str.maketrans(dict.fromkeys("‐‑‒–—―−－ー", "-"))
MY_NUMBER_CUE = re.compile(r"マイナンバー|個人番号|my number", re.IGNORECASE)
CUE_REACH = 40
RESERVED = re.compile(
    r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost)(?:\.|$)|@example\b", re.IGNORECASE
)

POSSIBLE = re.compile(r"[\d@_]|-----")
EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}\b")
DIGITS = r"(?<![\w.+-]){}(?![\w-]|\.\d)"
PHONES = tuple(
    re.compile(DIGITS.format(form), re.ASCII)
    for form in (
        r"0[5789]0-\d{4}-\d{4}",
        r"0[5789]0\d{8}",
        r"(?:0120|0800)-\d{2,3}-\d{3,4}",
        r"0\d{1,4}-\d{1,4}-\d{4}",
        r"\(0\d{1,4}\) ?\d{1,4}-\d{4}",
        r"(?:\+|00)[1-9]\d{0,2}[ -]?(?:\(0\))?\d{1,4}(?:[ -]?\d{2,4}){2,4}",
        r"(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-.]\d{4}",
    )
)
TWELVE = re.compile(r"(?<![\w.+-])(?<!\d )\d{4}([ -]?)\d{4}\1\d{4}(?![\w-]|\.\d| \d)", re.ASCII)
CARD = re.compile(DIGITS.format(r"[3-6]\d{3}(?:[ -]?\d{3,6}){2,4}"), re.ASCII)
SECRETS = {
    "AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,})\b"),
    "GitLab token": re.compile(r"\bglpat-[\w-]{20,}"),
    "API key": re.compile(r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}"),
    "Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "Slack token": re.compile(r"\bxox[abposr]-[0-9A-Za-z-]{10,}"),
    "Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "Stripe key": re.compile(r"\b[rs]k_live_[0-9A-Za-z]{16,}"),
    "web token": re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
}


def personal_data(record: Record) -> Iterator[Flaw]:
    """Find personal data and secrets; details are masked."""
    for where, text in texts_of(record):
        for name, start, end in personal_spans(text):
            detail = f"{name}: {masked(text[start:end])}"
            yield Flaw(kind="personal_data", field=where, detail=detail)


def personal_spans(text: str) -> list[tuple[str, int, int]]:
    """Return what is found: its name, where it starts and where it ends, in order.

    Of two that overlap, the one that starts first and is longest stays.
    """
    if not POSSIBLE.search(text):
        return []
    plain = plain_width(text)
    found = [
        (match.start(), -match.end(), name)
        for name, search in FINDERS.items()
        for match in search(plain)
    ]
    spans: list[tuple[str, int, int]] = []
    for start, negative_end, name in sorted(found):
        if not spans or start >= spans[-1][2]:
            spans.append((name, start, -negative_end))
    return spans


def plain_width(text: str) -> str:
    """Return text with full-width letters, digits and hyphens made plain, one for one."""
    if text.isascii():
        return text
    narrow = (
        folded if len(folded := unicodedata.normalize("NFKC", character)) == 1 else character
        for character in text
    )
    return HYPHENS_BETWEEN.sub("-", "".join(narrow))


# A long vowel mark is a hyphen only between digits.
HYPHENS_BETWEEN = re.compile(r"(?<=[\d)])[‐‑‒–—―−－ー](?=\d)")


def emails(text: str) -> Iterator[re.Match[str]]:
    """Find e-mail addresses outside the domains reserved for examples."""
    return (match for match in EMAIL.finditer(text) if not RESERVED.search(match[0]))


def phones(text: str) -> Iterator[re.Match[str]]:
    """Find phone numbers: Japanese forms, international ones, North American ones."""
    for form in PHONES:
        for match in form.finditer(text):
            digits = re.sub(r"\D", "", match[0])
            if 9 <= len(digits) <= 15 and len(set(digits[3:])) > 1:
                yield match


def my_numbers(text: str) -> Iterator[re.Match[str]]:
    """Find My Numbers: a right check digit and, since one in eleven has it, a cue."""
    for match in TWELVE.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        near = text[max(0, match.start() - CUE_REACH) : match.end() + CUE_REACH]
        grouped = len(match[0]) == 14
        if (
            len(set(digits)) > 2
            and is_my_number(digits)
            and (grouped or MY_NUMBER_CUE.search(near))
        ):
            yield match


def cards(text: str) -> Iterator[re.Match[str]]:
    """Find payment card numbers by length and Luhn digit."""
    for match in CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if 14 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits):
            yield match


def secrets(pattern: re.Pattern[str]) -> Callable[[str], Iterator[re.Match[str]]]:
    """Return what finds one kind of key that looks random."""

    def find(text: str) -> Iterator[re.Match[str]]:
        return (match for match in pattern.finditer(text) if len(set(match[0])) >= 10)

    return find


FINDERS: dict[str, Callable[[str], Iterator[re.Match[str]]]] = {
    "My Number": my_numbers,
    "card": cards,
    "e-mail": emails,
    "phone": phones,
    **{name: secrets(pattern) for name, pattern in SECRETS.items()},
}


def is_my_number(digits: str) -> bool:
    """Tell whether twelve digits end in the check digit of a My Number."""
    if len(digits) != 12 or not digits.isdecimal():
        return False
    total = 0
    for place, digit in enumerate(reversed(digits[:11]), start=1):
        total += int(digit) * (place + 1 if place <= 6 else place - 5)
    remainder = total % 11
    return int(digits[11]) == (0 if remainder <= 1 else 11 - remainder)


def luhn(digits: str) -> bool:
    """Tell whether digits end in their Luhn check digit."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def masked(text: str) -> str:
    """Return the first and last character with the middle hidden: a report is not a leak."""
    return f"{text[:2]}{'*' * min(8, max(1, len(text) - 3))}{text[-1:]}"
