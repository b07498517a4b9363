"""`llamune run`: one question, one answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llamune.cli import _screen
from llamune.errors import LlamuneError, UnsupportedError


def command(
    model: Annotated[str, typer.Argument(help="model name or GGUF file")],
    prompt: Annotated[
        list[str] | None, typer.Argument(help="the question; without one it is read from stdin")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="adapter (a model with one, or a GGUF file) to apply; NAME@0.7 for less"),
    ] = None,
    system: Annotated[str | None, typer.Option(help="system prompt for this question")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="continue the text as it stands, without chat template")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="tokens in the answer, at most")] = 1024,
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest token")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same answer")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="a text that ends the answer; may be repeated")
    ] = None,
    context: Annotated[int | None, typer.Option(help="tokens of context")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    engine: Annotated[
        str | None, typer.Option(help="ollama, or the URL of an OpenAI-compatible endpoint")
    ] = None,
    image: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the answer with its figures as JSON")
    ] = False,
) -> None:
    """Ask a model one question and print its answer as it comes.

    The model runs in this process, in llama.cpp; no server is needed.
    """
    if image is not None:
        raise UnsupportedError(
            f"--image {image}: Llamune answers text only", hint="leave the picture out"
        )
    text = question(prompt)
    from llamune.cli._talking import opened, write
    from llamune.engine import GenerateOptions, collect

    options = GenerateOptions(
        max_tokens=max_tokens, temperature=temperature, seed=seed, stop=tuple(stop or ())
    )
    with opened(
        model, engine=engine, adapters=adapter or (), n_ctx=context, n_threads=threads
    ) as ready:
        pieces = (
            ready.generate(text, options)
            if raw
            else ready.chat(messages_of(text, system=system), options)
        )
        if as_json:
            from dataclasses import asdict

            _screen.data_json({"model": ready.name} | asdict(collect(pieces)))
        else:
            write(pieces)


def question(prompt: list[str] | None) -> str:
    """Return the question from the arguments, or from stdin.

    Raises:
        LlamuneError: there is none.
    """
    if prompt:
        return " ".join(prompt)
    if sys.stdin.isatty():
        raise LlamuneError(
            "no question given", hint='llamune run NAME "question"; llamune chat NAME to talk'
        )
    text = sys.stdin.read().strip()
    if not text:
        raise LlamuneError("the question on stdin is empty")
    return text


def messages_of(text: str, *, system: str | None) -> list[dict[str, Any]]:
    """Return a conversation of one question."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": text}]
