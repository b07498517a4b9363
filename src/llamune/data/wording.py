"""Answers that say nothing, stop too soon, or talk like an assistant that will not help."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llamune.data.findings import Flaw
from llamune.data.records import Message, Record

__all__ = ["cut_answers", "empty_answers", "refusals"]

SHORTEST_CUT_BYTES = 80
"""A shorter answer may be a label or a name, which ends without a stop (27 kana, 80 letters)."""

ENDS = tuple(".!?:;)]}>\"'`*_~|/%#$…。．！？：；）」』】〕〉》”’♪★☆）")
GOES_ON = re.compile(
    r"(?:[,、，(（「『【\-–]|\b(?:and|or|but|because|the|an?|of|to|with|for|which|that|is|are))$",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"[.!?](?:\s|$)|[。！？]")
# What an answer must hold, in small letters, before it is worth a search, and the pattern.
REFUSALS = tuple(
    (needed.split("|"), re.compile(pattern, re.IGNORECASE))
    for needed, pattern in (
        ("as a", r"\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"),
        (" ai|model", r"\bI(?:'|’)?(?: a)?m (?:just )?an? (?:AI|(?:large )?language model)\b"),
        (
            "sorry",
            r"\bI(?:'|’)m (?:very |so )?sorry,? but (?:I|as)\b.{0,40}?"
            r"\b(?:can(?:no|'|’)?t|unable|not able)",
        ),
        (
            "i can|i am un|i won",
            r"\bI (?:can(?:no|'|’)t|am unable to|won(?:'|’)t) "
            r"(?:assist|help|fulfil+|comply|provide|create|generate)",
        ),
        (
            "knowledge|training data",
            r"\b(?:my|as of my)(?: last)? (?:knowledge|training data) cut-?off",
        ),
        ("lorem|[", r"\blorem ipsum\b|\[(?:your|insert)[ _][a-z ]{2,30}\]"),
        (
            "として|なので|ですので|である",
            r"(?:AI|人工知能|(?:大規模)?言語モデル)(?:アシスタント)?"
            r"(?:として|なので|ですので|であるため)",
        ),
        (
            "申し訳",
            r"申し訳(?:ございません|ありません|ない(?:です|の))(?:が|けど).{0,40}"
            r"(?:でき(?:ません|かねます|ない)|お答え(?:し)?(?:かね|でき))",
        ),
        (
            "には",
            r"(?:ご要望|ご質問|その(?:依頼|リクエスト))には"
            r"(?:お答え|お応え)(?:できません|いたしかねます)",
        ),
        ("作为", r"作为(?:一个|一名)?(?:人工智能|AI|语言模型)"),
    )
)
REFUSAL_REACH = 400
"""Characters from the start of an answer where a refusal is looked for."""


def answers_of(record: Record) -> Iterator[tuple[str, Message]]:
    """Yield each answer with the name of its field."""
    for place, turn in enumerate(record.messages):
        if turn.role == "assistant":
            yield f"messages[{place}]", turn


def empty_answers(record: Record) -> Iterator[Flaw]:
    """Find answers without a word or a call."""
    for where, turn in answers_of(record):
        if not turn.content.strip() and not turn.tool_calls:
            yield Flaw(kind="empty_answer", field=where, detail="empty")
    if record.text is not None and not record.text.strip():
        yield Flaw(kind="empty_answer", field="text", detail="empty")


def cut_answers(record: Record) -> Iterator[Flaw]:
    """Find answers that stop inside a sentence or a block of code."""
    for where, turn in answers_of(record):
        if reason := cut(turn.content.rstrip()):
            ending = turn.content.rstrip()[-30:]
            yield Flaw(kind="cut_answer", field=where, detail=f"{reason}: …{ending}")


def cut(text: str) -> str:
    """Say why a text looks cut off; empty when it does not."""
    if text.count("```") % 2:
        return "a code block is not closed"
    if len(text.encode()) < SHORTEST_CUT_BYTES or text.endswith(ENDS):
        return ""
    if GOES_ON.search(text):
        return "it ends inside a sentence"
    last_line = text.rpartition("\n")[2]
    is_list = last_line.lstrip()[:1] in {"-", "*", "・", "•"} or last_line.lstrip()[:1].isdigit()
    if len(SENTENCE.findall(text)) >= 2 and not is_list and text[-1].isalnum() and "\t" not in text:
        return "its last sentence has no end"
    return ""


def refusals(record: Record) -> Iterator[Flaw]:
    """Find refusals, an assistant's talk about itself, and text left to be filled in."""
    for where, turn in answers_of(record):
        start = turn.content[:REFUSAL_REACH]
        small = start.lower()
        for needed, pattern in REFUSALS:
            if any(part in small for part in needed) and (match := pattern.search(start)):
                yield Flaw(kind="refusal", field=where, detail=match[0])
                break
