"""Records back to files: every format that can be read, as JSON, JSON Lines, tables or Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from llamune.data.errors import DataError
from llamune.data.records import Message, Record
from llamune.files import new_file

__all__ = ["FORMATS", "fields_of", "write_records"]

BATCH_ROWS = 4096


def alpaca(record: Record) -> dict[str, Any]:
    """Return `instruction`, `input`, `output`, and `system` and `history` where there are some.

    Raises:
        DataError: the record has turns that the format cannot say.
    """
    chat = plain_turns(record, "alpaca")
    system = chat.pop(0).content if chat and chat[0].role == "system" else None
    roles = [turn.role for turn in chat]
    if roles != ["user", "assistant"] * (len(chat) // 2) or not chat:
        raise cannot(record, "alpaca", "questions and answers do not take turns")
    question, given = chat[-2].content, ""
    if record.given and question.endswith(f"\n{record.given}"):
        question, given = question[: -len(record.given) - 1], record.given
    fields: dict[str, Any] = {"instruction": question, "input": given, "output": chat[-1].content}
    if system is not None:
        fields["system"] = system
    if len(chat) > 2:
        texts = [turn.content for turn in chat[:-2]]
        fields["history"] = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    return fields


def openai(record: Record) -> dict[str, Any]:
    """Return `messages` and `tools`; arguments of calls are JSON in a text, as OpenAI has them.

    Raises:
        DataError: the record is plain text, a preference pair or labelled.
    """
    if record.text is not None or record.rejected:
        raise cannot(record, "openai", "it is no conversation")
    if record.label is not None:
        raise cannot(record, "openai", "it has a label")
    fields: dict[str, Any] = {"messages": [openai_message(turn) for turn in record.messages]}
    return fields | tools_field(record)


def openai_message(turn: Message) -> dict[str, Any]:
    """Return one message in OpenAI's form."""
    message = turn.for_template()
    if turn.tool_calls:
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": arguments_of(call)}}
            for call in turn.tool_calls
        ]
    if turn.train is not None:
        message["train"] = turn.train
    return message


def arguments_of(call: Mapping[str, Any]) -> str:
    """Return the arguments of a call as JSON."""
    return json.dumps(call["function"].get("arguments", {}), ensure_ascii=False)


def tools_field(record: Record) -> dict[str, Any]:
    """Return the field of the tools on offer, if there are some."""
    return {"tools": [dict(tool) for tool in record.tools]} if record.tools else {}


SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}


def sharegpt(record: Record) -> dict[str, Any]:
    """Return `conversations`, and `system`, `tools` and `kto_tag` where there are some.

    Raises:
        DataError: the record has turns that the format cannot say.
    """
    if record.text is not None or record.rejected:
        raise cannot(record, "sharegpt", "it is no conversation")
    chat = list(record.messages)
    fields: dict[str, Any] = {}
    if chat and chat[0].role == "system" and chat[0].content:
        fields["system"] = chat.pop(0).content
    turns = []
    for turn in chat:
        if turn.tool_calls and turn.content:
            raise cannot(record, "sharegpt", "a turn has both words and tool calls")
        if turn.train is not None or turn.tool_call_id is not None or turn.name is not None:
            raise cannot(record, "sharegpt", "a turn has a name, a call's id or a `train` mark")
        if turn.tool_calls:
            calls = [dict(call["function"]) for call in turn.tool_calls]
            said = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
            turns.append({"from": "function_call", "value": said})
        else:
            turns.append({"from": SHAREGPT_NAMES[turn.role], "value": turn.content})
    fields = {"conversations": turns, **fields}
    if record.tools:
        fields["tools"] = json.dumps([dict(tool) for tool in record.tools], ensure_ascii=False)
    if record.label is not None:
        fields["kto_tag"] = record.label
    return fields


def completion(record: Record) -> dict[str, Any]:
    """Return `prompt` and `completion`: texts for one question, else lists of messages.

    Raises:
        DataError: the record is no conversation that ends with an answer.
    """
    if record.text is not None or record.rejected or not ends_with_answer(record):
        raise cannot(record, "completion", "it does not end with an answer")
    if len(record.messages) < 2:
        raise cannot(record, "completion", "it has no question")
    label = {} if record.label is None else {"label": record.label}
    if [turn.role for turn in record.messages] == ["user", "assistant"] and bare(record):
        texts = [turn.content for turn in record.messages]
        return {"prompt": texts[0], "completion": texts[1], **label}
    messages = [openai_message(turn) for turn in record.messages]
    return {
        "prompt": messages[:-1],
        "completion": messages[-1:],
        **tools_field(record),
        **label,
    }


def preference(record: Record) -> dict[str, Any]:
    """Return `prompt`, `chosen` and `rejected`, lists of messages.

    Raises:
        DataError: the record has no rejected answer.
    """
    if not record.rejected:
        raise cannot(record, "preference", "it has no rejected answer")
    if record.label is not None:
        raise cannot(record, "preference", "it has a label")
    n_prompt = len(record.messages) - 1
    while n_prompt and record.messages[n_prompt - 1].role in {"assistant", "tool"}:
        n_prompt -= 1
    if not n_prompt:
        raise cannot(record, "preference", "it has no question")
    messages = [openai_message(turn) for turn in record.messages]
    return {
        "prompt": messages[:n_prompt],
        "chosen": messages[n_prompt:],
        "rejected": [openai_message(turn) for turn in record.rejected],
        **tools_field(record),
    }


def plain_text(record: Record) -> dict[str, Any]:
    """Return `text`.

    Raises:
        DataError: the record is a conversation; a chat template would have to turn it to text.
    """
    if record.text is None:
        raise cannot(record, "text", "it is a conversation")
    return {"text": record.text}


FORMATS: Mapping[str, Callable[[Record], dict[str, Any]]] = {
    "alpaca": alpaca,
    "openai": openai,
    "sharegpt": sharegpt,
    "completion": completion,
    "preference": preference,
    "text": plain_text,
}
"""How a record is written in each format."""


def cannot(record: Record, format_: str, reason: str) -> DataError:
    """Return what to raise for a record that a format cannot hold."""
    return DataError(
        f"record {record.source.number} cannot be written as {format_}: {reason}",
        path=record.source.path,
        line=record.source.line,
        hint="openai holds conversations, completion labelled ones, preference pairs, text prose",
    )


def ends_with_answer(record: Record) -> bool:
    """Tell whether the last turn is an assistant's."""
    return bool(record.messages) and record.messages[-1].role == "assistant"


def bare(record: Record) -> bool:
    """Tell whether every turn has words only."""
    extra = any(
        t.tool_calls or t.name or t.tool_call_id or t.train is not None for t in record.messages
    )
    return not extra and not record.tools


def plain_turns(record: Record, format_: str) -> list[Message]:
    """Return the turns of a record that has words only.

    Raises:
        DataError: it has more.
    """
    if record.text is not None or record.rejected:
        raise cannot(record, format_, "it is no conversation")
    if not bare(record):
        raise cannot(record, format_, "it has tools, names or `train` marks")
    if record.label is not None:
        raise cannot(record, format_, "it has a label")
    return list(record.messages)


def fields_of(record: Record, format_: str) -> dict[str, Any]:
    """Return a record's fields in a format, those outside it kept.

    Raises:
        DataError: the format is unknown or cannot hold the record.
    """
    if format_ not in FORMATS:
        raise DataError(f"format {format_!r}: one of {', '.join(FORMATS)}")
    fields = FORMATS[format_](record)
    return {**{k: v for k, v in record.extra.items() if k not in fields}, **fields}


def write_records(path: Path, rows: Iterable[Mapping[str, Any]], *, replace: bool = False) -> int:
    """Write rows to a file of the kind that its name says, and return how many they were.

    `.json`, `.jsonl`, `.csv`, `.tsv` and `.parquet`; the text kinds also with `.gz` or `.zst`.

    Raises:
        DataError: the name says no kind, or a table has rows of different fields.
        LlamuneError: the file exists and `replace` is false.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in {".gz", ".zst"} else ""
    kind = suffixes[-1] if suffixes else ""
    writers: dict[str, Callable[[BinaryIO, Iterator[Mapping[str, Any]]], int]] = {
        ".json": write_json,
        ".jsonl": write_jsonl,
        ".csv": lambda out, given: write_table(out, given, ","),
        ".tsv": lambda out, given: write_table(out, given, "\t"),
    }
    if kind == ".parquet" and not packing:
        writers[".parquet"] = write_parquet
    if kind not in writers:
        raise DataError(
            "the name does not say what to write",
            path=path,
            hint="end it with .json, .jsonl, .csv, .tsv (then .gz or .zst if you like) or .parquet",
        )
    with new_file(path, replace=replace) as raw:
        out: BinaryIO = raw
        if packing == ".gz":
            out = cast(BinaryIO, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))
        elif packing == ".zst":
            out = cast(BinaryIO, zstandard.ZstdCompressor().stream_writer(raw, closefd=False))
        count = writers[kind](out, iter(rows))
        if packing:
            out.close()
    return count


def write_json(out: BinaryIO, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write a JSON array with one record a line."""
    count = 0
    for row in rows:
        out.write(b"[\n  " if count == 0 else b",\n  ")
        out.write(as_json(row))
        count += 1
    out.write(b"\n]\n" if count else b"[]\n")
    return count


def write_jsonl(out: BinaryIO, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write JSON Lines."""
    count = 0
    for row in rows:
        out.write(as_json(row) + b"\n")
        count += 1
    return count


def as_json(row: Mapping[str, Any]) -> bytes:
    """Return a row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def write_table(out: BinaryIO, rows: Iterator[Mapping[str, Any]], delimiter: str) -> int:
    """Write a table with named columns; lists and objects become JSON in their cell.

    Raises:
        DataError: a row has fields that the first does not have.
    """
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer: csv.DictWriter[str] | None = None
    count = 0
    for row in rows:
        cells = {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in row.items()
        }
        if writer is None:
            writer = csv.DictWriter(text, list(cells), delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
        try:
            writer.writerow(cells)
        except ValueError as error:
            raise DataError(
                f"row {count + 1} of a table: {error}", hint="write JSON Lines instead"
            ) from None
        count += 1
    text.detach()
    return count


def write_parquet(out: BinaryIO, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write Parquet; the columns are those of the first rows.

    Raises:
        DataError: the rows do not fit one table.
    """
    import pyarrow
    import pyarrow.parquet

    count = 0
    writer = None
    try:
        while batch := [dict(row) for _, row in zip(range(BATCH_ROWS), rows, strict=False)]:
            if writer is None:
                table = pyarrow.Table.from_pylist(batch)
                writer = pyarrow.parquet.ParquetWriter(out, table.schema)
            else:
                table = pyarrow.Table.from_pylist(batch, schema=writer.schema)
            writer.write_table(table)
            count += len(batch)
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"the records do not fit one table: {reason}", hint="write JSON Lines instead"
        ) from None
    finally:
        if writer is not None:
            writer.close()
    return count
