"""How a merged file and the adapter beside its base do on held-out records, in llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llamune.data import DataFile, Record, prepare, read_records
from llamune.evaluate import kl_divergence, log_softmax
from llamune.files import sha256_of
from llamune.jobs.preparing import held_apart
from llamune.runs import Run

if TYPE_CHECKING:
    from llamune.data import Rendered
    from llamune.engine import AdapterFile
    from llamune.jobs.preparing import Opened

__all__ = [
    "HeldOut",
    "Losses",
    "held_out_of_file",
    "held_out_of_run",
    "losses_of",
    "unchanged_files",
]

MOST_RECORDS = 64  # more say little, and whole distributions are many numbers
MOST_TOKENS = 1024
MOST_KEPT_BYTES = 512 << 20  # distributions that candidates are compared with
N_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Records that were not trained on.

    Args:
        records: rendered; the loss counts their trained tokens.
        source: where they come from, in words.
    """

    records: tuple[Rendered, ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class Losses:
    """How a model does on held-out records.

    Args:
        loss: nats a trained token.
        kl: mean KL from a reference, nats a trained token; None without one.
    """

    loss: float
    kl: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What merged files are held against.

    Args:
        loss: nats a trained token.
        rows: for each record the logits that the loss asks for, float32 (n asked, n_vocab).
    """

    loss: float
    rows: tuple[np.ndarray, ...]


def held_out_of_file(paths: Sequence[Path], base: Opened) -> HeldOut:
    """Return the records of a person's own held-out file.

    Raises:
        DataError: it cannot be read or rendered.
    """
    records = read_records([DataFile(path) for path in paths]).records
    return rendered(records, base, source=", ".join(str(path) for path in paths))


def held_out_of_run(run: Run, base: Opened) -> HeldOut | None:
    """Return the records that a run held out, or None when its data files are not as they were."""
    recipe = run.recipe
    files = unchanged_files(run)
    if files is None or recipe.validation == 0:
        return None
    _, held = held_apart(
        read_records(files).records, validation=recipe.validation, seed=recipe.seed
    )
    if not held:
        return None
    return rendered(held, base, source=f"the records that {run.reference} held out")


def unchanged_files(run: Run) -> list[DataFile] | None:
    """Return a run's data files, or None when one is gone or not as it was."""
    facts = run.record.data
    if facts is None:
        return None
    paths = [Path(path) for path in facts.files]
    known = list(facts.sha256)
    if not all(path.is_file() for path in paths) or known != [sha256_of(path) for path in paths]:
        return None
    weights = [entry.weight for entry in run.recipe.data]
    return [DataFile(path, weight) for path, weight in zip(paths, weights, strict=True)]


def rendered(records: Sequence[Record], base: Opened, *, source: str) -> HeldOut:
    """Render records through the model's own template, the longest cut."""
    data = prepare(
        list(records),
        base.template,
        base.tokenizer,
        max_length=min(MOST_TOKENS, base.family.sizes.context_length),
        context_length=base.family.sizes.context_length,
        train_on="answers",
        seed=0,
    )
    return HeldOut(records=few_enough(data.rendered, base.tokenizer.n_vocab), source=source)


def few_enough(records: Sequence[Rendered], n_vocab: int) -> tuple[Rendered, ...]:
    """Return the first records whose distributions can be kept in memory."""
    chosen: list[Rendered] = []
    nbytes = 0
    for record in records[:MOST_RECORDS]:
        nbytes += record.n_trained * n_vocab * np.dtype(np.float32).itemsize
        if chosen and nbytes > MOST_KEPT_BYTES:
            break
        chosen.append(record)
    return tuple(chosen)


def reference_of(
    paths: Sequence[Path],
    held_out: HeldOut,
    *,
    adapters: Sequence[AdapterFile] = (),
    n_threads: int | None = None,
) -> Reference:
    """Run what merged files are held against, once.

    Args:
        paths: the model file, or its shards.
        held_out: the records.
        adapters: what acts on it.
        n_threads: CPU threads; default one a physical core.
    """
    rows = tuple(distributions(paths, held_out, adapters, n_threads))
    losses = [asked_losses(*pair) for pair in zip(held_out.records, rows, strict=True)]
    return Reference(loss=float(np.concatenate(losses).mean()), rows=rows)


def losses_of(
    paths: Sequence[Path],
    held_out: HeldOut,
    *,
    reference: Reference | None = None,
    n_threads: int | None = None,
) -> Losses:
    """Return a model's loss on held-out records, and its divergence from a reference.

    Args:
        paths: the model file, or its shards.
        held_out: the records.
        reference: what to take the KL from.
        n_threads: CPU threads; default one a physical core.
    """
    losses, divergences = [], []
    for number, logits in enumerate(distributions(paths, held_out, (), n_threads)):
        losses.append(asked_losses(held_out.records[number], logits))
        if reference is not None:
            divergences.append(kl_divergence(reference.rows[number], logits))
    kl = float(np.concatenate(divergences).mean()) if divergences else None
    return Losses(loss=float(np.concatenate(losses).mean()), kl=kl)


def asked_positions(record: Rendered) -> np.ndarray:
    """Return the positions whose distribution the loss asks for: those before a trained token."""
    return np.flatnonzero(np.asarray(record.trained[1:]))


def asked_losses(record: Rendered, logits: np.ndarray) -> np.ndarray:
    """Return nats a trained token, from the logits (n asked, n_vocab) of `distributions`."""
    ids = np.asarray(record.ids)[asked_positions(record) + 1]
    losses = np.empty(len(ids))
    for row, token in enumerate(ids):  # one at a time: a row of a large vocabulary is megabytes
        losses[row] = -log_softmax(logits[row : row + 1])[0, token]
    return losses


def distributions(
    paths: Sequence[Path],
    held_out: HeldOut,
    adapters: Sequence[AdapterFile],
    n_threads: int | None,
) -> Iterator[np.ndarray]:
    """Yield for each record the logits that the loss asks for, float32 (n asked, n_vocab)."""
    from llamune.engine import prompt_logits

    sequences = [record.ids for record in held_out.records]
    found = prompt_logits(
        list(paths), sequences, adapters=adapters, n_batch=N_BATCH, n_threads=n_threads
    )
    for record, logits in zip(held_out.records, found, strict=True):
        yield logits[asked_positions(record)]
