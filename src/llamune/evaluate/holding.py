"""Next-token distributions of torch held against llama.cpp's, on a cut model and on the whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.evaluate.cut import CutSizes, cut_adapter, cut_model, cut_peft
from llamune.evaluate.distributions import Agreement, Tally, agreement
from llamune.evaluate.reference import Reference, ReferenceOf

if TYPE_CHECKING:
    from llamune.gguf import ModelFile

__all__ = ["compare_exact", "compare_served", "limited"]

Ids = Sequence[int]

MAX_LENGTH = 96
"""tokens of one sequence: longer than the shortened window of a cut model several times"""
SERVED_BATCH, OTHER_BATCH = 64, 1


def limited(sequences: Sequence[Ids], n_positions: int) -> list[Ids]:
    """Return sequences from the first on, together at most `n_positions` tokens long."""
    out: list[Ids] = []
    left = n_positions
    for sequence in sequences:
        if left < 1:
            break
        out.append(sequence[: min(left, MAX_LENGTH)])
        left -= len(out[-1])
    return out


def compare_exact(
    file: ModelFile,
    sequences: Sequence[Ids],
    *,
    sizes: CutSizes,
    peft: Path | None,
    adapter: Path | None,
    n_threads: int | None,
    reference: ReferenceOf,
    enough: float,
) -> dict[str, Agreement | None]:
    """Hold torch against llama.cpp on a few blocks in F32, the adapter's part of them included.

    Returns:
        `exact`, and `exact_floor`: llama.cpp against itself at another batch size, measured only
        where `exact` is not below `enough`.

    Args:
        file: the whole model.
        sequences: token ids of prompts.
        sizes: how much of the model to keep.
        peft: the adapter for torch.
        adapter: the adapter for llama.cpp.
        n_threads: CPU threads of llama.cpp.
        reference: makes the torch side.
        enough: a mean KL below which no floor is needed, nats a token.
    """
    from llamune.engine import AdapterFile, prompt_logits
    from llamune.gguf import ModelFile

    with tempfile.TemporaryDirectory(prefix="llamune-proof-") as scratch:
        folder = Path(scratch)
        cut = folder / "cut.gguf"
        cut_model(file, sizes, cut)
        adapters = []
        cut_folder = None
        if adapter is not None and peft is not None:
            if cut_adapter(adapter, sizes.n_blocks, folder / "adapter.gguf"):
                adapters = [AdapterFile(path=folder / "adapter.gguf")]
            if cut_peft(peft, sizes.n_blocks, folder / "peft"):
                cut_folder = folder / "peft"
        ids = exact_sequences(sequences, sizes.n_vocab or n_vocab_of(file))

        def run(*, n_batch: int) -> Iterator[Any]:
            return prompt_logits(
                cut,
                ids,
                adapters=adapters,
                n_batch=n_batch,
                kv_type="f32",
                flash=False,
                n_threads=n_threads,
                n_gpu_layers=0,
            )

        with ModelFile.open(cut) as small:
            ours = reference(small, cut_folder, rounded_gelu=True)
            pairs = zip(ids, run(n_batch=MAX_LENGTH), strict=True)
            exact = agreement((ours(one), theirs) for one, theirs in pairs)
        floor = None
        if not exact.mean_kl < enough:
            pairs_of_llama = zip(run(n_batch=MAX_LENGTH), run(n_batch=OTHER_BATCH), strict=True)
            floor = agreement(pairs_of_llama)
    return {"exact": exact, "exact_floor": floor}


def n_vocab_of(file: ModelFile) -> int:
    """Return how many tokens a model knows."""
    return file.tensors["token_embd.weight"].shape[0]


def exact_sequences(sequences: Sequence[Ids], n_vocab: int) -> list[Ids]:
    """Return a sequence of random tokens and two of the prompts, within a vocabulary."""
    import numpy as np

    random = np.random.default_rng(0).integers(0, n_vocab, MAX_LENGTH).tolist()
    prompts = [[token % n_vocab for token in sequence[:MAX_LENGTH]] for sequence in sequences[:2]]
    return [random, *prompts]


def compare_served(
    paths: Sequence[Path],
    sequences: Sequence[Ids],
    *,
    ours: Reference,
    adapter: Path | None,
    n_threads: int | None,
) -> dict[str, Any]:
    """Return the agreements of the whole file: `served`, `floor`, `rounding` and `effect`.

    Args:
        paths: the GGUF file, or its shards.
        sequences: token ids of prompts.
        ours: the torch side.
        adapter: the adapter for llama.cpp.
        n_threads: CPU threads of llama.cpp.
    """
    from llamune.engine import AdapterFile, prompt_logits

    attached = [] if adapter is None else [AdapterFile(path=adapter)]

    def run(*, n_batch: int, adapters: Sequence[Any]) -> Iterator[Any]:
        return prompt_logits(
            paths, sequences, adapters=adapters, n_batch=n_batch, n_threads=n_threads
        )

    served, floor, rounding, effect = Tally(), Tally(), Tally(), Tally()
    bare = run(n_batch=SERVED_BATCH, adapters=[]) if attached else None
    # one sequence at a time: the distributions of all of them would take gigabytes
    for ids, theirs, other in zip(
        sequences,
        run(n_batch=SERVED_BATCH, adapters=attached),
        run(n_batch=OTHER_BATCH, adapters=attached),
        strict=True,
    ):
        found = ours(ids)
        served.add(found, theirs)
        rounding.add(found, ours(ids, rounded_inputs=True))
        floor.add(theirs, other)
        if bare is not None:
            effect.add(next(bare), theirs)
    return {
        "served": served.result(),
        "floor": floor.result(),
        "rounding": rounding.result(),
        "effect": effect.result() if attached else None,
    }
