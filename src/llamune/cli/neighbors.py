"""`llamune neighbors`: which tokens lie near a word in the model's token embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.anatomy import Neighbor, Word
    from llamune.text import Tokenizer


def command(
    ref: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    texts: Annotated[list[str], typer.Argument(metavar="WORD...", help="one or more words")],
    count: Annotated[int, typer.Option("--count", min=1, help="nearest tokens to show")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show how near words are to each other, and each word's nearest tokens.

    Near means a small angle between rows of the token embedding: cosine 1 is the same
    direction. A word of several tokens is the mean of their rows.
    """
    from rich.text import Text

    from llamune.anatomy import cosines, find_words, nearest
    from llamune.gguf import ModelFile
    from llamune.store import resolve
    from llamune.text import tokenizer_of

    model = resolve(ref)
    for text in model.notes:
        _screen.note(text)
    with ModelFile.open(model.paths, mapped=model.store is not None) as file:
        tokenizer = tokenizer_of(file)
        words = find_words(file, tokenizer, texts)
        between = cosines(words).tolist()
        around = nearest(file, tokenizer, words, count=count)
    if as_json:
        _screen.data_json(
            [
                {
                    "word": word.text,
                    "tokens": list(word.ids),
                    "space_before": word.with_space,
                    "cosine_to": dict(zip(texts, row, strict=True)),
                    "nearest": [
                        {"id": one.id, "text": one.text, "cosine": one.cosine} for one in found
                    ],
                }
                for word, row, found in zip(words, between, around, strict=True)
            ]
        )
        return
    for word in words:
        _screen.show(Text(_screen.plain(tokens_text(word, tokenizer))))
    if len(words) > 1:
        show_cosines(words, between)
    show_nearest(words, around)


def tokens_text(word: Word, tokenizer: Tokenizer) -> str:
    """Say which tokens a word is."""
    from llamune.anatomy import text_of

    pieces = ", ".join(f"{one} {text_of(tokenizer, one)!r}" for one in word.ids)
    if len(word.ids) > 1:
        return f"{word.text}: {len(word.ids)} tokens ({pieces}); their mean is used"
    return f"{word.text}: token {pieces}" + (", with a space before it" if word.with_space else "")


def show_cosines(words: list[Word], between: list[list[float]]) -> None:
    """Print the cosine of every two words."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("COSINE", overflow="fold")
    for word in words:
        grid.add_column(_screen.plain(word.text), justify="right", overflow="fold")
    for word, row in zip(words, between, strict=True):
        grid.add_row(_screen.plain(word.text), *(f"{value:.3f}" for value in row))
    _screen.data("")
    _screen.show(grid)


def show_nearest(words: list[Word], around: list[list[Neighbor]]) -> None:
    """Print each word's nearest tokens."""
    from rich.table import Table

    for word, found in zip(words, around, strict=True):
        grid = Table(box=None, pad_edge=False, show_edge=False)
        grid.add_column(_screen.plain(f"NEAR {word.text}"), overflow="fold", min_width=24)
        grid.add_column("ID", justify="right")
        grid.add_column("COSINE", justify="right")
        for one in found:
            grid.add_row(_screen.plain(repr(one.text)), str(one.id), f"{one.cosine:.3f}")
        _screen.data("")
        _screen.show(grid)
