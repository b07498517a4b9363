"""How a merged file and the adapter beside its base do on held-out records, in llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llamune.data import DataFile, Record, prepare, read_records, split
from llamune.evaluate import kl_divergence, token_losses
from llamune.files import sha256_of
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
        kl: mean KL from the adapter beside its base, nats a trained token; None for itself.
    """

    loss: float
    kl: float | None = None


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
    _, held = split(read_records(files).records, validation=recipe.validation, seed=recipe.seed)
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
    return HeldOut(records=tuple(data.rendered[:MOST_RECORDS]), source=source)


def losses_of(
    paths: Sequence[Path],
    held_out: HeldOut,
    *,
    adapters: Sequence[AdapterFile] = (),
    reference: tuple[Sequence[Path], Sequence[AdapterFile]] | None = None,
    n_threads: int | None = None,
) -> Losses:
    """Return a model's loss on held-out records, and its divergence from a reference.

    Args:
        paths: the model file, or its shards.
        held_out: the records.
        adapters: what acts on it.
        reference: model file and adapters to take the KL from.
        n_threads: CPU threads; default one a physical core.
    """
    total, divergence, n_tokens = 0.0, 0.0, 0
    with ExitStack() as stack:
        own = distributions(stack, paths, adapters, held_out, n_threads)
        others: Iterator[np.ndarray | None] = iter([None] * len(held_out.records))
        if reference is not None:
            others = distributions(stack, *reference, held_out, n_threads)
        for record, logits, other in zip(held_out.records, own, others, strict=True):
            # the distribution after token i is asked for token i + 1
            asked = np.flatnonzero(np.asarray(record.trained[1:]))
            total += float(token_losses(logits, record.ids)[asked].sum())
            n_tokens += len(asked)
            if other is not None:
                divergence += float(kl_divergence(other[asked], logits[asked]).sum())
    kl = divergence / n_tokens if reference is not None else None
    return Losses(loss=total / n_tokens, kl=kl)


def distributions(
    stack: ExitStack,
    paths: Sequence[Path],
    adapters: Sequence[AdapterFile],
    held_out: HeldOut,
    n_threads: int | None,
) -> Iterator[np.ndarray]:
    """Yield the logits of each record, (n_tokens, n_vocab); the model stays open on the stack."""
    from llamune.engine import prompt_logits

    sequences = [record.ids for record in held_out.records]
    found = prompt_logits(
        list(paths), sequences, adapters=adapters, n_batch=N_BATCH, n_threads=n_threads
    )
    stack.callback(found.close)  # type: ignore[attr-defined]  # a generator
    return found
