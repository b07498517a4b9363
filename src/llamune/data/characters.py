"""Characters that do not belong: damage from wrong encodings, controls, HTML, control tokens."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator

from llamune.data.findings import Flaw
from llamune.data.records import Record

__all__ = [
    "GENERIC_CONTROL",
    "control_characters",
    "control_pattern",
    "control_tokens",
    "html_residue",
    "mojibake",
    "repair_unicode",
    "texts_of",
    "without_control_characters",
    "without_html",
]

CONTROL = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f"
    "\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060\\u2066-\\u2069\\ufeff\\ufff9-\\ufffb]"
)
TAG = re.compile(
    r"</?(?:p|br|div|span|a|img|table|thead|tbody|tr|td|th|ul|ol|li|h[1-6]|script|style|strong"
    r"|em|font|center|iframe|section|article|header|footer)\b[^<>]{0,300}>",
    re.IGNORECASE,
)
ENTITY = re.compile(r"&(?:nbsp|amp|lt|gt|quot|apos|#\d{2,6}|#x[0-9a-fA-F]{2,5});")
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
# What UTF-8 read as CP932 looks like: the first bytes of kana and CJK punctuation as kanji.
CP932_DAMAGE = re.compile("[縺繧繝]")
GENERIC_CONTROL = re.compile(
    r"<\|[a-zA-Z_]{2,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<｜[^｜<>]{2,40}｜>"
)
LINE_END = re.compile(r"[ \t\u3000]+$", re.MULTILINE)


def texts_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield every text of a record with the name of its field."""
    if record.text is not None:
        yield "text", record.text
    for place, turn in enumerate(record.messages):
        yield f"messages[{place}]", turn.content
    for place, turn in enumerate(record.rejected):
        yield f"rejected[{place}]", turn.content


def mojibake(record: Record) -> Iterator[Flaw]:
    """Find text that was decoded with the wrong encoding."""
    for where, text in texts_of(record):
        if text.isascii():
            continue
        if "\N{REPLACEMENT CHARACTER}" in text:
            at = text.index("\N{REPLACEMENT CHARACTER}")
            yield Flaw(kind="mojibake", field=where, detail=text[max(0, at - 10) : at + 10])
        elif damaged(text):
            yield Flaw(kind="mojibake", field=where, detail=text[:20])


def damaged(text: str) -> bool:
    """Tell whether a text shows the marks of a wrong decoding."""
    if len(CP932_DAMAGE.findall(text)) >= 3 and from_cp932(text) is not None:
        return True
    from ftfy.badness import is_bad

    return bool(is_bad(text)) and repair_unicode(text) != unicodedata.normalize("NFC", text)


def from_cp932(text: str) -> str | None:
    """Return text that was UTF-8 read as CP932, read right; None if it was not."""
    try:
        return text.encode("cp932").decode("utf-8")
    except UnicodeError:
        return None


def repair_unicode(text: str) -> str:
    """Undo wrong decodings and compose characters (NFC); widths and quotes stay as they are."""
    if text.isascii():
        return text
    if CP932_DAMAGE.search(text) and (right := from_cp932(text)) is not None:
        return right
    import ftfy

    fixed: str = ftfy.fix_text(
        text,
        unescape_html=False,
        uncurl_quotes=False,
        fix_character_width=False,
        fix_latin_ligatures=False,
        remove_terminal_escapes=False,
        normalization="NFC",
    )
    return fixed


def control_characters(record: Record) -> Iterator[Flaw]:
    """Find characters that print nothing or turn the writing direction."""
    for where, text in texts_of(record):
        if match := CONTROL.search(text):
            detail = f"U+{ord(match[0]):04X} at character {match.start() + 1}"
            yield Flaw(kind="control_character", field=where, detail=detail)


def without_control_characters(text: str) -> str:
    """Remove what `control_characters` finds."""
    return CONTROL.sub("", text)


def html_residue(record: Record) -> Iterator[Flaw]:
    """Find HTML tags and entities outside code."""
    for where, text in texts_of(record):
        if "<" not in text and "&" not in text:
            continue
        bare = CODE.sub("", text)
        if match := TAG.search(bare) or ENTITY.search(bare):
            yield Flaw(kind="html", field=where, detail=match[0][:40])


def without_html(text: str) -> str:
    """Remove tags and decode entities outside code; `<br>` and block ends become line ends."""
    parts: list[str] = []
    at = 0
    for code in CODE.finditer(text):
        parts += [stripped(text[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*parts, stripped(text[at:])])


def stripped(text: str) -> str:
    """Return text without its tags."""
    broken = re.sub(r"<br\s*/?>|</(?:p|div|li|tr|h[1-6])>", "\n", text, flags=re.IGNORECASE)
    bare = html.unescape(TAG.sub("", broken)).replace("\u00a0", " ")
    return LINE_END.sub("", bare) if broken != text else bare


def control_pattern(texts: Iterator[str] | list[str]) -> re.Pattern[str]:
    """Return a pattern that matches the control tokens of a model, and those of others."""
    own = sorted({text for text in texts if len(text) >= 3 and not text.isalnum()}, key=len)
    parts = [re.escape(text) for text in reversed(own)]
    return re.compile("|".join([*parts, GENERIC_CONTROL.pattern]))


def control_tokens(record: Record, pattern: re.Pattern[str]) -> Iterator[Flaw]:
    """Find the control tokens of chat templates inside what is said."""
    for where, text in texts_of(record):
        if match := pattern.search(text):
            yield Flaw(kind="control_token", field=where, detail=match[0][:40])
