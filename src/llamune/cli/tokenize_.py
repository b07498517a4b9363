"""`llamune tokenize`: a text as the model sees it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen
from llamune.errors import LlamuneError

if TYPE_CHECKING:
    from rich.table import Table

    from llamune.text import Tokenizer

MAX_ROWS = 400  # tokens in the table; `--json` has them all


def command(
    ref: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    text: Annotated[
        str | None, typer.Argument(help="text to tokenize; standard input when left out")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="read control tokens such as <s> as ordinary text")
    ] = False,
    bos: Annotated[
        bool, typer.Option("--bos", help="add BOS and EOS where the model file asks for them")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show the tokens of a text: the ids that llama.cpp makes of it."""
    from llamune.gguf import ModelFile
    from llamune.store import resolve
    from llamune.text import tokenizer_of

    model = resolve(ref)
    if text is None:
        text = read_standard_input()
    with ModelFile.open(model.paths, mapped=model.store is not None) as file:
        tokenizer = tokenizer_of(file)
    ids = tokenizer.encode(text, parse_special=not plain, add_special=bos)
    if as_json:
        _screen.data_json(report(tokenizer, text, ids))
        return
    show(tokenizer, text, ids)


def read_standard_input() -> str:
    """Return what is piped in, line ends as they are.

    Raises:
        LlamuneError: it is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise LlamuneError(
            f"standard input is not UTF-8 at byte {error.start:,}",
            hint="convert it, for example with: iconv -t UTF-8",
        ) from error


def report(tokenizer: Tokenizer, text: str, ids: list[int]) -> dict[str, Any]:
    """Return everything as the JSON output has it."""
    return {
        "ids": ids,
        "tokens": [tokenizer.piece(id_) for id_ in ids],
        "bytes": [tokenizer.token_bytes(id_).hex() for id_ in ids],
        "n_tokens": len(ids),
        "n_characters": len(text),
        "n_bytes": len(text.encode()),
    }


def show(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    """Print the text in the colours of its tokens, a table of them, and how many there are."""
    from llamune.cli._tokens import coloured

    if ids:
        _screen.show(coloured(tokenizer, ids))
        _screen.data("")
        _screen.show(table(tokenizer, ids[:MAX_ROWS]))
        if len(ids) > MAX_ROWS:
            _screen.note(f"the first {MAX_ROWS} of {len(ids):,} tokens; --json has them all")
        _screen.data("")
    _screen.data(f"{len(ids):,} tokens, {len(text):,} characters, {len(text.encode()):,} bytes")


def table(tokenizer: Tokenizer, ids: list[int]) -> Table:
    """Return one row for each token: its id, bytes, text and kind."""
    from rich.table import Table

    from llamune.cli._tokens import visible

    rows = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    rows.add_column("id", justify="right")
    rows.add_column("bytes", overflow="fold", max_width=36)
    rows.add_column("text", overflow="fold")
    rows.add_column("kind")
    for id_ in ids:
        data = tokenizer.token_bytes(id_)
        kind = tokenizer.kind(id_).name.lower().replace("_", " ")
        rows.add_row(str(id_), data.hex(" "), visible(data), "" if kind == "normal" else kind)
    return rows
