"""`llamune template`: the text that a model is really sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen
from llamune.errors import LlamuneError

if TYPE_CHECKING:
    from llamune.data import Record
    from llamune.text import ChatTemplate, Difference, Tokenizer

TRAINED = "black on bright_green"
PROMPT = "black on bright_white"
LEGEND = "trained: green · prompt: white · control tokens: red"


@dataclass(frozen=True)
class Side:
    """A model's template and tokenizer, and the stop texts of its store.

    Attributes:
        passed_over: the template that the model also has and the runtime does not use.
    """

    ref: str
    template: ChatTemplate
    tokenizer: Tokenizer
    stops: tuple[str, ...]
    passed_over: ChatTemplate | None = None


def command(
    ref: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    data: Annotated[
        Path | None, typer.Option(help="show a record of this file instead of the example")
    ] = None,
    record: Annotated[int, typer.Option(min=1, help="which record of the file, from 1")] = 1,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="show tokens in the colours of their roles")
    ] = False,
    against: Annotated[
        str | None, typer.Option(help="another model: show where its template differs")
    ] = None,
    use: Annotated[
        str | None,
        typer.Option(help="gguf, ollama, a common format or a file, in place of the usual one"),
    ] = None,
    source: Annotated[bool, typer.Option("--source", help="print the template itself")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show the text that a model is sent: which template makes it, and of what tokens it is."""
    side = opened(ref, use)
    if source and not as_json:
        _screen.data(side.template.text)
        return
    example = chosen_record(data, record)
    other = opened(against, None) if against is not None else None
    if as_json:
        _screen.data_json(report(side, example, other))
        return
    show(side, example, tokens=tokens)
    for one in filter(None, (passed_over(side), other)):
        _screen.data("")
        for line in differences(side, one, example):
            _screen.data(line)


def opened(ref: str, use: str | None) -> Side:
    """Return a model's template and tokenizer."""
    from llamune.gguf import ModelFile
    from llamune.store import resolve
    from llamune.text import has_template, template_of, tokenizer_of

    model = resolve(ref)
    with ModelFile.open(model.paths, mapped=model.store is not None) as file:
        tokenizer = tokenizer_of(file)
        template = template_of(model, file, tokenizer, use=use)
        passed_over = None
        if model.template is not None and has_template(file):
            other = "gguf" if template.source == "ollama" else "ollama"
            passed_over = template_of(model, file, tokenizer, use=other)
    stops = model.parameters.get("stop", ())
    texts = (stops,) if isinstance(stops, str) else tuple(stops)
    return Side(ref, template, tokenizer, texts, passed_over)


def passed_over(side: Side) -> Side | None:
    """Return the same model with the template that it also has, to be compared."""
    other = side.passed_over
    if other is None:
        return None
    name = "the file's own template" if other.source == "gguf" else "the TEMPLATE layer"
    return replace(side, ref=name, template=other, passed_over=None)


def chosen_record(data: Path | None, number: int) -> Record:
    """Return a record of a file, or the example conversation.

    Raises:
        LlamuneError: the file has not so many records.
    """
    from llamune.data import Message, Record, Source, read_records
    from llamune.text import EXAMPLE

    if data is None:
        messages = tuple(Message(role=one["role"], content=one["content"]) for one in EXAMPLE)
        return Record(messages=messages, source=Source(path="example", number=1))
    records = read_records([data]).records
    if number > len(records):
        raise LlamuneError(f"{data}: there is no record {number}, only {len(records)}")
    return records[number - 1]


def show(side: Side, record: Record, *, tokens: bool) -> None:
    """Print where the template comes from, what it makes of a record, and what is wrong with it."""
    from llamune.cli._tokens import coloured
    from llamune.data import render

    template, tokenizer = side.template, side.tokenizer
    _screen.data(f"template  {_screen.plain(template.where)} ({template.language})")
    ends = ", ".join(sorted(map(tokenizer.piece, tokenizer.stop_ids)))
    _screen.data(f"stops at  {_screen.plain(', '.join([ends, *side.stops]))}")
    for note in template.notes:
        _screen.data(f"note      {_screen.plain(note)}")
    _screen.data("")
    if tokens:
        rendered = render(record, template, tokenizer)
        _screen.show(coloured(tokenizer, rendered.ids, roles(tokenizer, rendered)))
        _screen.data("")
        _screen.data(f"{len(rendered.ids):,} tokens, {rendered.n_trained:,} trained · {LEGEND}")
    else:
        _screen.data(_screen.plain_lines(text_of(side, record)))
    for fault in found_faults(side, record):
        _screen.warn(fault)


def roles(tokenizer: Tokenizer, rendered: Any) -> Any:
    """Return a style for each place: trained, prompt, or the colour of control tokens."""

    def style(place: int) -> str | None:
        if rendered.trained[place]:
            return TRAINED
        return None if rendered.ids[place] in tokenizer.control_ids else PROMPT

    return style


def text_of(side: Side, record: Record) -> str:
    """Return what the template makes of a record."""
    messages = [message.for_template() for message in record.messages]
    return side.template.render(messages, tools=list(record.tools) or None)


def ids_of(side: Side, record: Record, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a record, by one tokenizer so that they can be compared."""
    from llamune.text import prompt_ids

    messages = [message.for_template() for message in record.messages]
    return prompt_ids(side.template, tokenizer, messages, tools=list(record.tools) or None)


def found_faults(side: Side, record: Record) -> list[str]:
    """Return what is wrong with what a record becomes."""
    from llamune.text import faults

    messages = [message.for_template() for message in record.messages]
    tools = list(record.tools) or None
    return faults(side.template, side.tokenizer, messages, tools=tools, stops=side.stops)


def compared(first: Side, second: Side, record: Record) -> list[Difference]:
    """Return where the tokens of two templates differ, both by the first model's tokenizer."""
    from llamune.text import compare

    ids = [ids_of(side, record, first.tokenizer) for side in (first, second)]
    return compare(*ids)


def differences(first: Side, second: Side, record: Record) -> Iterator[str]:
    """Yield one line for each difference of two templates, in words where it has a name."""
    from llamune.text import thought_difference

    try:
        found = compared(first, second, record)
    except LlamuneError as error:
        yield f"not compared with {second.ref}: {_screen.plain(error.message)}"
        return
    if not found:
        yield f"the same tokens as {second.ref}"
        return
    yield f"{len(found)} places differ from {second.ref}:"
    for one in found:
        parts = [spelled(first.tokenizer, ids) for ids in (one.first, one.second)]
        yield f"  token {one.place}: {parts[0]} against {parts[1]}"
    if sentence := thought_difference(text_of(first, record), text_of(second, record)):
        yield f"  {sentence}"
    for fault in found_faults(second, record):
        yield f"  {second.ref}: {_screen.plain(fault)}"


def spelled(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return tokens in quotes, or that there are none."""
    from llamune.cli._tokens import visible

    return f"“{visible(b''.join(map(tokenizer.token_bytes, ids)))}”" if ids else "nothing"


def report(side: Side, record: Record, other: Side | None) -> dict[str, Any]:
    """Return everything as the JSON output has it."""
    from llamune.data import render

    rendered = render(record, side.template, side.tokenizer)
    result: dict[str, Any] = {
        "source": side.template.source,
        "language": side.template.language,
        "where": side.template.where,
        "template": side.template.text,
        "notes": list(side.template.notes),
        "stop_tokens": sorted(map(side.tokenizer.piece, side.tokenizer.stop_ids)),
        "stop_texts": list(side.stops),
        "text": text_of(side, record),
        "ids": rendered.ids,
        "trained": rendered.trained,
        "faults": found_faults(side, record),
    }
    for key, second in (("differences", other), ("differences_passed_over", passed_over(side))):
        if second is not None:
            result[key] = [
                {
                    "place": one.place,
                    "first": side.tokenizer.decode(one.first),
                    "second": side.tokenizer.decode(one.second),
                }
                for one in compared(side, second, record)
            ]
    return result
