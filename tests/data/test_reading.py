"""Every format people publish is read by its content; every bad record is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
import zstandard

from llamune.data import DataError, DataFile, Message, data_files, open_reader, read_records
from tests.data.fakes import written

EXAMPLES = Path(__file__).parents[2] / "examples"
ALPACA = {"instruction": "Sort:", "input": "a ticket", "output": "billing"}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "やあ"},
        {"from": "gpt", "value": "こんにちは"},
    ]
}
OPENAI = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello"},
    ]
}


def turns(*pairs: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=content) for role, content in pairs)


SHAPES: list[tuple[str, dict[str, Any], tuple[Message, ...]]] = [
    ("alpaca", ALPACA, turns(("user", "Sort:\na ticket"), ("assistant", "billing"))),
    (
        "alpaca",
        {
            "instruction": "and now?",
            "input": "",
            "output": "c",
            "system": "s",
            "history": [["a", "b"]],
        },
        turns(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "and now?"))
        + turns(("assistant", "c")),
    ),
    (
        "alpaca",
        {"instruction": "Who?", "context": "", "response": "Me", "category": "qa"},
        turns(("user", "Who?"), ("assistant", "Me")),
    ),
    ("sharegpt", SHAREGPT, turns(("user", "やあ"), ("assistant", "こんにちは"))),
    (
        "openai",
        OPENAI,
        turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")),
    ),
    (
        "completion",
        {"prompt": "2+2", "completion": "4"},
        turns(("user", "2+2"), ("assistant", "4")),
    ),
    ("completion", {"question": "q", "answer": "a"}, turns(("user", "q"), ("assistant", "a"))),
    (
        "completion",
        {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "a"}],
            "label": True,
        },
        turns(("user", "q"), ("assistant", "a")),
    ),
    (
        "preference",
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        turns(("user", "q"), ("assistant", "good")),
    ),
    (
        "preference",
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        turns(("user", "q"), ("assistant", "good")),
    ),
    (
        "preference",
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
        },
        turns(("user", "q"), ("assistant", "good")),
    ),
    (
        "preference",
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        turns(("user", "q"), ("assistant", "good")),
    ),
]


@pytest.mark.parametrize(("name", "fields", "expected"), SHAPES)
def test_reads_each_format(
    tmp_path: Path, name: str, fields: dict[str, Any], expected: tuple[Message, ...]
) -> None:
    read = read_records([written(tmp_path, [fields])])
    assert (read.format, read.problems) == (name, [])
    assert read.records[0].messages == expected


def test_preference_keeps_the_worse_answer_apart(tmp_path: Path) -> None:
    (record,) = read_records(
        [written(tmp_path, [{"prompt": "q", "chosen": "good", "rejected": "bad"}])]
    ).records
    assert record.rejected == turns(("assistant", "bad"))


def test_tool_calls_come_with_decoded_arguments(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    fields = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": "1"},
            {"role": "assistant", "content": "two"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    (record,) = read_records([written(tmp_path, [fields])]).records
    assert record.messages[1].tool_calls[0]["function"]["arguments"] == {"x": 1}
    assert record.messages[2].tool_call_id == "1"
    assert record.tools[0]["function"]["name"] == "f"


def test_sharegpt_function_calls(tmp_path: Path) -> None:
    fields = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "two"},
        ],
        "tools": '[{"name": "f"}]',
    }
    (record,) = read_records([written(tmp_path, [fields])]).records
    assert [turn.role for turn in record.messages] == ["user", "assistant", "tool", "assistant"]
    assert record.messages[1].tool_calls[0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert record.tools == ({"name": "f"},)


BAD: list[tuple[Any, str, str]] = [
    ({"instruction": "q", "output": 3}, "output", "expected text, found a number"),
    ({"instruction": "q", "output": None}, "output", "expected text, found nothing"),
    ({"instruction": "q", "output": "a", "history": [["x"]]}, "history[0]", "a question and an"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "'wizard' is not"),
    ({"messages": [{"role": "user", "content": "x"}]}, "", "no assistant turn"),
    ({"messages": ["x"]}, "messages[0]", "expected a message, found text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0]",
        "'image_url' is not text",
    ),
    ({"conversations": [{"from": "elf", "value": "x"}]}, "conversations[0].from", "'elf'"),
    ({"prompt": "q", "chosen": "x", "rejected": []}, "rejected", "expected text or messages"),
    ({"chosen": "x", "rejected": "y"}, "prompt", "no question"),
    ({"foo": 1}, "", "fields of no known format: foo"),
    ("just text", "", "expected an object with fields, found text"),
    (["x"], "", "expected an object with fields, found a list"),
    ({"text": 1}, "text", "found a number"),
    (
        {"conversations": [{"from": "function_call", "value": "{"}]},
        "conversations[0].value",
        "not JSON",
    ),
    ({"messages": [], "tools": 5}, "tools", "expected a list"),
]


@pytest.mark.parametrize(("fields", "field", "reason"), BAD)
def test_each_bad_record_is_reported_with_line_field_and_reason(
    tmp_path: Path, fields: Any, field: str, reason: str
) -> None:
    lines = [ALPACA, fields, ALPACA]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    read = read_records([path])
    assert len(read.records) == 2
    (problem,) = read.problems
    assert (problem.source.line, problem.source.number, problem.field) == (2, 2, field)
    assert reason in problem.reason
    assert str(problem).startswith(f"{path}:2 (record 2): ")


def test_a_broken_line_is_one_problem(tmp_path: Path) -> None:
    good = json.dumps(ALPACA)
    path = written(tmp_path, f'{good}\n{{"instruction": \n\n{good}'.encode())
    read = read_records([path])
    assert (len(read.records), read.problems[0].source.line) == (2, 2)
    assert "not JSON" in read.problems[0].reason


@pytest.mark.parametrize(
    "text",
    [
        '[{"instruction": "a", "output": "b"},\n{"instruction": "c", "output": "d"}]',
        '{"instruction": "a", "output": "b"}\n{"instruction": "c", "output": "d"}\n',
        '{\n"instruction": "a",\n"output": "b"\n}\n{\n"instruction": "c", "output": "d"}',
        '{"data": [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d"}]}',
        '// ours\n[{"instruction": "a", /* so */ "output": "b",},\n// next\n'
        '{"instruction": "c", "output": "d"},]',
        "instruction,output\na,b\nc,d\n",
        "instruction\toutput\na\tb\nc\td",
        "instruction;output\na;b\nc;d",
        'instruction,output\n"a","b"\n"c","d"\n',
    ],
)
def test_the_container_is_told_by_content(tmp_path: Path, text: str) -> None:
    for raw in (text.encode(), gzip.compress(text.encode()), zstandard.compress(text.encode())):
        read = read_records([written(tmp_path, raw)])
        assert [(r.question, r.answer) for r in read.records] == [
            ("user: a", "b"),
            ("user: c", "d"),
        ]


def test_arrays_give_the_line_of_each_record(tmp_path: Path) -> None:
    text = '[\n{"instruction": "a", "output": "b"},\n\n{"instruction": "c",\n"output": 1}]'
    read = read_records([written(tmp_path, text.encode())])
    assert read.records[0].source.line == 2
    assert read.problems[0].source.line == 4


def test_tables_decode_json_cells_and_quoted_line_ends(tmp_path: Path) -> None:
    cell = json.dumps(OPENAI["messages"]).replace('"', '""')
    text = f'messages,note\n"{cell}","two\nlines"\n'
    (record,) = read_records([written(tmp_path, text.encode())]).records
    assert record.answer == "Hello"
    assert record.extra == {"note": "two\nlines"}


def test_a_table_row_of_another_width_is_a_problem(tmp_path: Path) -> None:
    read = read_records([written(tmp_path, b"prompt,completion\na,b\nc,d,e\n")])
    assert read.problems[0].reason == "3 cells where the header names 2 columns"
    assert read.problems[0].source.line == 3


def test_reads_parquet_and_arrow(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([ALPACA, {**ALPACA, "output": "delivery"}])
    parquet, arrow, stream = (tmp_path / name for name in ("a.x", "b.x", "c.x"))
    pyarrow.parquet.write_table(table, parquet)
    with pyarrow.ipc.new_file(arrow, table.schema) as sink:
        sink.write(table)
    with pyarrow.ipc.new_stream(stream, table.schema) as sink:
        sink.write(table)
    for path in (parquet, arrow, stream):
        assert [r.answer for r in read_records([path]).records] == ["billing", "delivery"]


def test_plain_text_comes_in_pieces_that_end_with_a_paragraph(tmp_path: Path) -> None:
    paragraph = "A line of prose.\n" * 100
    text = "\n".join([paragraph] * 8)
    read = read_records([written(tmp_path, text.encode())])
    assert read.format == "text"
    assert len(read.records) > 1
    assert "\n\n".join(record.text or "" for record in read.records) == text.rstrip()
    assert read.records[1].source.line == (read.records[0].text or "").count("\n") + 3


FATAL: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"  \n ", "empty"),
    (b"PK\x03\x04rest", "a zip archive"),
    (b"GGUF....", "a model file"),
    (b"ab\0cd", "zero bytes"),
    (b'[{"instruction": "a", "output": "b"},', "cut"),
    (b'[{"instruction": "a", "outp', "cut"),
    (b'[{"instruction": "a" "output": "b"}]', "not JSON"),
    (b'[{"instruction": "a", "output": "b"} {"instruction": 1}]', "expected ',' or ']'"),
    (b'[1, "x"]', "no readable record"),
    (b"[" * 100_000, "nested too deep"),
    (gzip.compress(b'{"prompt": "a", "completion": "b"}\n' * 99)[:-12], "cut or damaged"),
    (zstandard.compress(bytes(range(1, 100)) * 99)[:-12], "cut or damaged"),
    (b"PAR1 no such thing PAR1", "cut or damaged"),
    (b"ARROW1\0\0 no such thing", "cut or damaged"),
    (b"\xff\xff\xff\xff\x10\0\0\0nonsense", "cut or damaged"),
]


@pytest.mark.parametrize(("raw", "reason"), FATAL)
def test_a_file_that_cannot_be_used_gives_one_error_with_its_name(
    tmp_path: Path, raw: bytes, reason: str
) -> None:
    path = written(tmp_path, raw)
    with pytest.raises(DataError, match=reason) as caught:
        read_records([path])
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_fault_in_json_names_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, b'[\n{"prompt": "a", "completion": "b"},\n{"prompt": nope}\n]')
    with pytest.raises(DataError, match=f"{path}:3: not JSON"):
        read_records([path])


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_records([tmp_path / "none.json"])


def test_folders_take_the_training_split_and_say_so(tmp_path: Path) -> None:
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl", "README.md", ".hidden.jsonl"):
        written(tmp_path, {"prompt": name, "completion": "x"}, name)
    read = read_records([tmp_path])
    assert [r.question for r in read.records] == ["user: train.jsonl"]
    assert "test.jsonl, valid.jsonl" in read.notes[0]


def test_a_saved_hugging_face_dataset_is_a_folder(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([ALPACA])
    for name in ("train", "test"):
        folder = tmp_path / name
        folder.mkdir()
        with pyarrow.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as sink:
            sink.write(table)
        (folder / "state.json").write_text("{}")
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(read_records([tmp_path]).records) == 1


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file"):
        read_records([tmp_path])


def test_several_files_keep_their_order_and_weights(tmp_path: Path) -> None:
    first = written(tmp_path, [ALPACA], "a.json")
    second = written(tmp_path, SHAREGPT, "b.json")
    files = data_files([f"{first}=2", str(second)])
    assert files == [DataFile(first, 2.0), DataFile(second)]
    read = read_records(files)
    assert [record.weight for record in read.records] == [2.0, 1.0]
    assert read.format == "alpaca+sharegpt"


def test_a_line_that_no_memory_should_hold_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("jsonrows", "tabular"):
        monkeypatch.setattr(f"llamune.data.{module}.LONGEST_RECORD_CHARACTERS", 100)
    good = json.dumps(ALPACA)
    long = json.dumps({"prompt": "x" * 1000, "completion": "y"})
    read = read_records([written(tmp_path, gzip.compress(f"{good}\n{long}\n{good}".encode()))])
    assert len(read.records) == 2
    assert [(p.source.line, p.reason) for p in read.problems] == [(2, "longer than 100 characters")]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_progress_adds_up_to_the_size_of_the_files(tmp_path: Path, pack: Any) -> None:
    lines = "\n".join(json.dumps({**ALPACA, "input": str(n)}) for n in range(5000)).encode()
    path = written(tmp_path, pack(lines))
    told: list[int] = []
    reader = open_reader([path])
    reader.advance = told.append
    assert sum(1 for _ in reader) == 5000
    assert sum(told) == reader.n_bytes == path.stat().st_size
    assert all(n >= 0 for n in told)
