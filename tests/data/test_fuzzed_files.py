"""Whatever a file holds: records, problems with their numbers, or one error that names it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.data import DataError, read_records
from llamune.data.lenient import blank_out

ALPACA = {"instruction": "Sort:", "input": "a ticket", "output": "billing"}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "role",
                    "content",
                    "from",
                    "value",
                    "conversations",
                    "instruction",
                    "input",
                    "output",
                    "history",
                    "chosen",
                    "rejected",
                    "prompt",
                    "completion",
                    "text",
                    "tools",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "system",
                    "label",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=120)
@given(values=st.lists(json_values, min_size=1, max_size=4))
def test_fuzzed_records_are_read_or_reported_never_lost(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "data.jsonl"
    lines = [json.dumps(value) for value in [ALPACA, *values]]
    path.write_text("\n".join(lines))
    read = read_records([path])
    assert len(read.records) + len(read.problems) == len(values) + 1
    numbers = [r.source.number for r in read.records] + [p.source.number for p in read.problems]
    assert sorted(numbers) == list(range(1, len(values) + 2))


@settings(max_examples=120)
@given(raw=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_fuzzed_files_give_records_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "data"
    path.write_bytes(raw)
    try:
        read = read_records([path])
    except DataError as error:
        assert str(path) in error.message
    else:
        assert read.records


@given(st.text())
def test_blanking_keeps_every_line_and_all_json(text: str) -> None:
    value = json.dumps({"a": text, "b": [text]}, ensure_ascii=False)
    assert blank_out(value) == value
    assert len(blank_out(text)) == len(text)
    assert blank_out(text).count("\n") == text.count("\n")
