"""Whatever can be read can be written back in its own format, and is then the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llamune.data import DataError, Record, Source, fields_of
from llamune.data.checking import Inspector
from llamune.data.shapes import BadRecord, parse_record
from llamune.data.signatures import normalized
from llamune.data.similar import groups_of

SOURCE = Source(path="a.json", number=1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
calls = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.sampled_from(["f", "g"]), "arguments": st.dictionaries(texts, texts)}
        ),
    }
)
openai_turns = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts},
        optional={"name": texts, "tool_call_id": texts, "train": st.booleans()},
    ),
    st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": st.none() | texts,
            "tool_calls": st.lists(calls, min_size=1, max_size=2),
        }
    ),
)
sharegpt_turns = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "observation", "system"]), "value": texts}
)
histories = st.lists(st.tuples(texts, texts).map(list), max_size=2)
alpacas = st.fixed_dictionaries(
    {"instruction": texts, "input": texts, "output": texts},
    optional={"system": texts, "history": histories, "topic": texts},
)
records = st.one_of(
    alpacas,
    st.fixed_dictionaries({"messages": st.lists(openai_turns, max_size=4)}),
    st.fixed_dictionaries({"conversations": st.lists(sharegpt_turns, max_size=4)}),
    st.fixed_dictionaries(
        {"prompt": texts, "completion": texts}, optional={"label": st.booleans()}
    ),
    st.fixed_dictionaries({"prompt": texts, "chosen": texts, "rejected": texts}),
    st.fixed_dictionaries({"text": texts, "url": texts}),
)


def parsed(fields: Any) -> Record:
    try:
        return parse_record(fields, SOURCE)
    except BadRecord:
        assume(False)
        raise


@settings(max_examples=200)
@given(records)
def test_what_is_read_is_written_and_read_again_the_same(fields: dict[str, Any]) -> None:
    record = parsed(fields)
    written = json.loads(json.dumps(fields_of(record, record.format), ensure_ascii=False))
    again = parse_record(written, SOURCE)
    assert again == record


@settings(max_examples=200)
@given(records, st.sampled_from(["alpaca", "openai", "sharegpt", "completion", "preference"]))
def test_another_format_says_the_same_or_refuses(fields: dict[str, Any], format_: str) -> None:
    record = parsed(fields)
    try:
        written = fields_of(record, format_)
    except DataError as error:
        assert "cannot be written as" in error.message
        return
    again = parse_record(json.loads(json.dumps(written)), SOURCE)
    same = replace(again, format=record.format, given=record.given, extra=record.extra)
    assert same == record


@settings(max_examples=200)
@given(records)
def test_no_record_is_too_odd_to_inspect(fields: dict[str, Any]) -> None:
    record = parsed(fields)
    inspector = Inspector()
    assert all(flaw.detail.isprintable() or flaw.detail for flaw in inspector.flaws(record))
    assert inspector.length(record) >= 0


@settings(max_examples=60)
@given(st.lists(records, min_size=1, max_size=8))
def test_same_questions_and_same_words_share_a_group(many: list[dict[str, Any]]) -> None:
    made = [parsed(fields) for fields in many]
    groups = groups_of(made)
    for left, one in zip(made, groups, strict=True):
        for right, other in zip(made, groups, strict=True):
            if normalized(left.whole) == normalized(right.whole):
                assert one == other
            if left.question and normalized(left.question) == normalized(right.question):
                assert one == other
