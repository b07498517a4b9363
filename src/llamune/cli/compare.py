"""`llamune compare`: several models on the same prompts, side by side, with a blind vote."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen
from llamune.errors import LlamuneError

if TYPE_CHECKING:
    from llamune.evaluate import Contestant, Pairing, Rating, Vote

KEYS = {"l": "left", "r": "right", "t": "tie"}


def command(
    models: Annotated[list[str], typer.Argument(help="two or more models: names or GGUF files")],
    prompts: Annotated[
        Path, typer.Option(help="prompts: one a line (.txt), a JSON list, or records")
    ],
    html: Annotated[Path | None, typer.Option(help="write a page with the answers")] = None,
    lang: Annotated[str | None, typer.Option(help="language of the page: en or ja")] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="vote in this terminal without seeing the names")
    ] = False,
    vote: Annotated[
        bool, typer.Option("--vote", help="vote on a local page without seeing the names")
    ] = False,
    judge: Annotated[str | None, typer.Option(help="model that votes, in both orders")] = None,
    votes: Annotated[
        Path | None, typer.Option(help="file that keeps the votes; default in the home folder")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="ollama, or the URL of an OpenAI-compatible endpoint")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="tokens of an answer, at most")] = 256,
    temperature: Annotated[
        float, typer.Option(help="0 always takes the likeliest token: the same answers each time")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="of the answers, and of the order in a vote")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Run models on the same prompts and show their answers, speed and size side by side.

    One model is loaded at a time. Votes are kept; ratings are Bradley-Terry's with 95 % intervals.
    """
    if len(models) < 2 or len(set(models)) < len(models):
        raise LlamuneError("name at least two different models")
    from llamune.evaluate import pairings, ratings_of, read_prompts, read_votes
    from llamune.store import home

    asked = read_prompts(prompts)
    contestants = run_all(
        models, asked, engine=engine, max_tokens=max_tokens, temperature=temperature,
        seed=seed, threads=threads,
    )  # fmt: skip
    path = votes or home() / "votes.jsonl"
    pairs = list(pairings(contestants, asked, seed=seed))
    if judge is not None:
        let_judge(judge, pairs, path, threads)
    if blind:
        vote_blind(pairs, path)
    if vote:
        vote_on_page(pairs, path, lang)
    among = [vote for vote in read_votes(path) if {vote.left, vote.right} <= set(models)]
    ratings = ratings_of(among)
    if html is not None:
        from llamune.evaluate import compare_report
        from llamune.files import write_text

        text = compare_report(contestants, asked, ratings=ratings, language=lang)
        write_text(html, text, replace=True)
        _screen.note(f"wrote {html}")
    if as_json:
        _screen.data_json(as_data(contestants, asked, ratings, among))
    elif not (blind or vote):
        show_answers(contestants, asked)
    if not as_json:
        show_figures(contestants, ratings)


def run_all(
    models: Sequence[str],
    prompts: Sequence[Any],
    *,
    engine: str | None,
    max_tokens: int,
    temperature: float,
    seed: int,
    threads: int | None,
) -> list[Contestant]:
    """Put the prompts to one model after the other."""
    from llamune.cli._talking import opened
    from llamune.engine import GenerateOptions
    from llamune.evaluate import rounds
    from llamune.store import resolve

    options = GenerateOptions(temperature=temperature, seed=seed, max_tokens=max_tokens)
    sizes = {name: None if engine else resolve(name).size for name in models}  # refuse early
    found = []
    total = len(models) * len(prompts)
    with _screen.progress("asking", total=total, unit="answers") as advance:
        for name in models:
            opening = partial(opened, name, engine=engine, n_threads=threads)
            found.append(
                rounds(name, opening, prompts, options, size_bytes=sizes[name], advance=advance)
            )
    return found


def let_judge(name: str, pairs: Sequence[Pairing], path: Path, threads: int | None) -> None:
    """Let a model vote, and say how steady it is."""
    from llamune.cli._talking import opened
    from llamune.evaluate import add_vote, judged

    with opened(name, n_threads=threads) as engine:
        found = judged(engine, pairs)
    for vote in found.votes:
        add_vote(path, vote)
    if pairs:
        share = found.n_consistent / len(pairs)
        _screen.note(
            f"{name} kept its verdict in {found.n_consistent} of {len(pairs)} pairs ({share:.0%}) "
            "when the answers changed places; the others count as ties"
        )


def vote_blind(pairs: Sequence[Pairing], path: Path) -> None:
    """Show pairs without names and keep what the person chooses; `q` ends it."""
    from llamune.evaluate import add_vote

    if not pairs:
        _screen.note("all answers are the same: nothing to vote on")
    for number, pair in enumerate(pairs, start=1):
        _screen.data(f"\n[{number} of {len(pairs)}] {_screen.plain_lines(question_of(pair))}")
        _screen.data(f"\nleft:\n{_screen.plain_lines(pair.left_text)}")
        _screen.data(f"\nright:\n{_screen.plain_lines(pair.right_text)}")
        choice = ask_choice()
        if choice is None:
            return
        add_vote(path, pair.vote(choice))  # type: ignore[arg-type]  # one of KEYS


def vote_on_page(pairs: Sequence[Pairing], path: Path, language: str | None) -> None:
    """Serve a page that shows pairs without names, until each has its vote; Ctrl-C ends it."""
    from llamune.evaluate import add_vote, vote_page
    from llamune.serve.voting import VotePage

    if not pairs:
        _screen.note("all answers are the same: nothing to vote on")
        return
    shown = [
        {"prompt": question_of(pair), "left": pair.left_text, "right": pair.right_text}
        for pair in pairs
    ]
    page = VotePage(
        vote_page(language),
        shown,
        lambda place, choice: add_vote(path, pairs[place].vote(choice)),  # type: ignore[arg-type]  # the page takes only these
    )
    _screen.note(f"vote at {page.address} (Ctrl-C ends the vote)")
    try:
        page.finished.wait()
    except KeyboardInterrupt:
        _screen.note("the vote has ended early")
    finally:
        page.close()


def question_of(pair: Pairing) -> str:
    """Return what was asked."""
    return str(pair.prompt[-1]["content"])


def ask_choice() -> str | None:
    """Return `left`, `right` or `tie`; None where the person ends the vote."""
    while True:
        sys.stderr.write("better: [l]eft, [r]ight, [t]ie, [q]uit? ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        answer = line.strip().lower()[:1]
        if not line or answer == "q":
            return None
        if answer in KEYS:
            return KEYS[answer]


def show_answers(contestants: Sequence[Contestant], prompts: Sequence[Any]) -> None:
    """Print every prompt with the answers side by side."""
    from rich.table import Table
    from rich.text import Text

    table = Table("prompt", *(one.name for one in contestants), show_lines=True)
    for place, prompt in enumerate(prompts):
        texts = [prompt[-1]["content"], *(one.answers[place].text for one in contestants)]
        table.add_row(*(Text(_screen.plain_lines(str(text).strip())) for text in texts))
    _screen.show(table)


def show_figures(contestants: Sequence[Contestant], ratings: Sequence[Rating]) -> None:
    """Print what each model costs, and its rating."""
    from rich.table import Table

    from llamune.evaluate import figures_of

    rated = {rating.model: rating for rating in ratings}
    names = ("model", "size", "memory", "tok/s", "first", "tokens", "rating [95 %]")
    table = Table(*names, box=None, pad_edge=False)
    for one in contestants:
        table.add_row(one.name, *figures_of(one, rated.get(one.name)))
    _screen.show(table)


def as_data(
    contestants: Sequence[Contestant],
    prompts: Sequence[Any],
    ratings: Sequence[Rating],
    votes: Sequence[Vote],
) -> dict[str, Any]:
    """Return a comparison as plain data."""
    from dataclasses import asdict

    return {
        "prompts": [list(prompt) for prompt in prompts],
        "models": [
            asdict(one)
            | {
                "tokens_per_second": one.tokens_per_second,
                "first_piece_seconds": one.first_piece_seconds,
            }
            for one in contestants
        ],
        "ratings": [asdict(rating) for rating in ratings],
        "n_votes": len(votes),
    }
