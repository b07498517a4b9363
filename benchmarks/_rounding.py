"""What the benchmarks of rounding share: texts of three kinds, losses as served, measured steps."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import pydoc_data.topics
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._measure import peak_resident_bytes
from scipy import stats

import llamune
from llamune.engine import AdapterFile, prompt_logits
from llamune.evaluate import kl_divergence, sample_text, token_losses
from llamune.runs import Run
from llamune.text import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
WINDOW = 128  # tokens
PIECE_WORDS = 72  # about as many as fit into a window
HELD_OUT = 5  # every so many topics of the Python documentation are held out
TOKENS = {"domain": 1536, "general": 1024, "licence": 1024}  # of each text that is measured on

Logits = list[np.ndarray]


def topics(*, held_out: bool) -> list[str]:
    """Return English technical prose, the reference that Python carries, in pieces."""
    names = sorted(pydoc_data.topics.topics)
    chosen = [n for i, n in enumerate(names) if (i % HELD_OUT == 0) == held_out]
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in chosen)
    words = text.split()
    starts = range(0, len(words) - PIECE_WORDS + 1, PIECE_WORDS)
    return [" ".join(words[i : i + PIECE_WORDS]) for i in starts]


def write_training_data(path: Path) -> None:
    """Write the domain's training text, a record a piece."""
    rows = (json.dumps({"text": part}) for part in topics(held_out=False))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def measured_texts(tokenizer: Tokenizer) -> dict[str, list[list[int]]]:
    """Return windows of held-out text of the domain, of general text, and of a licence.

    No calibration or training sees any of it, and none sees another licence text.
    """
    texts = {
        "domain": "\n".join(topics(held_out=True)),
        "general": sample_text(),
        "licence": (ROOT / "LICENSE").read_text(encoding="utf-8"),
    }
    found = {}
    for name, text in texts.items():
        ids = tokenizer.encode(text, parse_special=False)[: TOKENS[name]]
        found[name] = [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
    return found


def logits_of(
    path: Path,
    sequences: Sequence[Sequence[int]],
    *,
    adapters: Sequence[AdapterFile] = (),
    threads: int,
) -> Logits:
    """Return llama.cpp's logits for each sequence."""
    return list(prompt_logits(path, sequences, adapters=adapters, n_threads=threads))


def figures(
    sequences: Sequence[Sequence[int]], logits: Iterable[np.ndarray], reference: Logits | None
) -> dict[str, float]:
    """Return loss, and KL from a reference, nats a token, with standard errors."""
    losses, divergences = [], []
    for number, (ids, rows) in enumerate(zip(sequences, logits, strict=True)):
        losses.append(token_losses(rows, list(ids)))
        if reference is not None:
            divergences.append(kl_divergence(reference[number], rows))
    found = dict(zip(("loss", "loss_error"), mean_and_error(losses), strict=True))
    if reference is not None:
        found |= dict(zip(("kl", "kl_error"), mean_and_error(divergences), strict=True))
    return found


def mean_and_error(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return a mean over tokens and its standard error."""
    values = np.concatenate([np.ravel(part) for part in parts])
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Return the mean over seeds and half of its 95 % interval (Student's t), None for one seed."""
    n = len(values)
    half = None
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return {"mean": statistics.mean(values), "half_width": half, "n": n}


@dataclass(frozen=True)
class Effort:
    """What a step took, in a process of its own.

    Args:
        seconds: time, without the start of the process.
        peak_bytes: its largest resident memory.
    """

    seconds: float
    peak_bytes: int


def in_own_process(work: Callable[..., None], *arguments: Any) -> Effort:
    """Run a function of a module in a fresh process, and return what it took."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=timed, args=(theirs, work, *arguments))
    process.start()
    theirs.close()
    try:
        effort: Effort = ours.recv()
    except EOFError:
        process.join()
        sys.exit(f"{work.__name__} failed with {process.exitcode}")
    process.join()
    return effort


def timed(pipe: Any, work: Callable[..., None], *arguments: Any) -> None:
    """Run a function and send what it took."""
    start = time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - start
    pipe.send(Effort(seconds=seconds, peak_bytes=peak_resident_bytes()))


class Kept:
    """Rows of figures kept in a file as they come, so that a stopped benchmark goes on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def has(self, **key: Any) -> bool:
        """Whether there is a row with these values."""
        return any(matches(row, key) for row in self.rows)

    def row(self, **key: Any) -> dict[str, Any]:
        """Return the first row with these values."""
        return next(row for row in self.rows if matches(row, key))

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row and print it."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")


def matches(row: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether a row has all values of a key."""
    return all(row[name] == value for name, value in key.items())


def merge_options(description: str, *, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """Return the options that every comparison of merges has."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp")
    parser.add_argument("--keep", type=Path, help="file of rows; those in it are not measured")
    return parser


def compare_merges(
    chosen: argparse.Namespace,
    one_seed: Callable[[int, Path, Kept], None],
    means: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]],
) -> None:
    """Compare merges for every seed, in a home of their own, and print the rows and their means.

    Args:
        chosen: the options.
        one_seed: called with a seed, a folder for its files in which the training data lies as
            `prose.jsonl`, and where to add its rows.
        means: what is said of all rows together.
    """
    kept = Kept(chosen.keep)
    with tempfile.TemporaryDirectory(prefix="llamune-merges-") as scratch:
        folder = Path(scratch)
        os.environ["LLAMUNE_HOME"] = str(folder / "home")
        write_training_data(folder / "prose.jsonl")
        for seed in chosen.seeds:
            one_seed(seed, folder, kept)
    rows = [row for row in kept.rows if row["steps"] == chosen.steps]
    print(json.dumps({"steps": chosen.steps, "results": rows, "means": means(rows)}))


def tuned(base: Path, data: Path, *, name: str, seed: int, steps: int) -> Run:
    """Train an adapter on every token of the data."""
    return llamune.tune(
        str(base), data=data, name=name, seed=seed, steps=steps, rank=16, learning_rate=5e-4,
        batch=4, max_length=512, validation=0.0, evaluations=0, train_on="all",
    )  # fmt: skip
