"""Files in the forms that people publish, written for this project."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from llamune.data import read_records

FOLDER = Path(__file__).parent / "published"
FAQ = ["到着後八日以内でしたら承ります。", "全国一律五百円です。"]
FILES = {
    "alpaca-pasted.json": ("alpaca", "utf-8", ["会議は三時に変更。", "A banana."]),
    "sharegpt-tools.json": ("sharegpt", "utf-8", ["No, it is closed on Sundays."]),
    "openai-weighted.jsonl": (
        "openai",
        "utf-8",
        ["On your keyboard. Yes.", "The vase. It looked at me."],
    ),
    "dolly-style.jsonl": ("alpaca", "utf-8", ["In May 1921.", "Slow Comet."]),
    "preference-trl.jsonl": ("preference", "utf-8", ["It is 31 metres tall."]),
    "kto.jsonl": (
        "completion",
        "utf-8",
        ["Eight minutes in boiling water, then cold water.", "Eggs are nice."],
    ),
    "semicolons.csv": ("completion", "utf-8", ["Die Elbe.", "In Japan."]),
    "faq.tsv": (
        "completion",
        "utf-8",
        FAQ,
    ),
    "faq-shift-jis.tsv": (
        "completion",
        "cp932",
        FAQ,
    ),
    "faq-euc-jp.tsv": (
        "completion",
        "euc_jp",
        FAQ,
    ),
    "wrapped.json": ("completion", "utf-8", ["Gate four.", "Until ten."]),
}


def test_every_file_is_expected() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_reads_without_a_problem(name: str) -> None:
    read = read_records([FOLDER / name])
    format_, encoding, answers = FILES[name]
    assert (read.format, read.encoding, read.problems) == (format_, encoding, [])
    assert [record.answer for record in read.records] == answers


def test_turns_of_weight_nought_are_not_trained() -> None:
    record = read_records([FOLDER / "openai-weighted.jsonl"]).records[0]
    assert [turn.train for turn in record.answers] == [False, True]


def test_labels_and_rejected_answers_are_kept_apart() -> None:
    assert [r.label for r in read_records([FOLDER / "kto.jsonl"]).records] == [True, False]
    (record,) = read_records([FOLDER / "preference-trl.jsonl"]).records
    assert [turn.content for turn in record.rejected] == ["Very tall."]
    assert record.extra == {"score_chosen": 8.5, "score_rejected": 3.0}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_nulls_that_arrow_puts_into_objects_are_no_arguments(tmp_path: Path, kind: str) -> None:
    def call(name: str, arguments: dict[str, str]) -> dict[str, object]:
        messages = [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
            },
        ]
        return {"messages": messages}

    path = tmp_path / f"calls.{kind}"
    rows = [call("weather", {"city": "Oslo"}), call("distance", {"to": "Bergen"})]
    table = pyarrow.Table.from_pylist(rows)
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_stream(path, table.schema) as sink:
            sink.write(table)
    records = read_records([path]).records
    arguments = [r.messages[1].tool_calls[0]["function"]["arguments"] for r in records]
    assert arguments == [{"city": "Oslo"}, {"to": "Bergen"}]
