"""How much general text a merge's calibration should see: gain in the domain, loss outside.

    python -m benchmarks.general_share                 # ten minutes a seed on two cores

The starter (Q4_1), tuned on English technical prose, is merged into its own types by compensated
rounding, with a share of the calibration tokens taken from the general text that ships. llama.cpp
computes the loss on held-out prose, on other general text, and on a licence, and the KL from the
adapter beside its base. With `--keep`, rows are kept as they come and not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._rounding import (
    Kept,
    compare_merges,
    figures,
    interval,
    logits_of,
    measured_texts,
    merge_options,
    tuned,
)

from llamune.adapter import changed_rows, read_adapter
from llamune.adapter import merge as merge_file
from llamune.engine import AdapterFile
from llamune.jobs import opened
from llamune.jobs.calibrating import compensated_rounding, texts_of_files
from llamune.store import starter

SHARES = (0.0, 0.125, 0.25, 0.5)


def main() -> None:
    """Tune, merge with each share, and print what each keeps and costs."""
    parser = merge_options(__doc__, seeds=(0, 1))
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    chosen = parser.parse_args()

    def one_seed(seed: int, folder: Path, kept: Kept) -> None:
        if not kept.has(seed=seed, steps=chosen.steps):
            compare(seed, folder, kept, chosen)

    compare_merges(chosen, one_seed, means)


def compare(seed: int, folder: Path, kept: Kept, chosen: argparse.Namespace) -> None:
    """Tune once, merge with every share."""
    data = folder / "prose.jsonl"
    path = starter.fetch()
    run = tuned(path, data, name=f"prose-{seed}", seed=seed, steps=chosen.steps)
    rows = []
    with opened(str(path)) as base:
        texts = measured_texts(base.tokenizer)
        beside = [AdapterFile(path=run.adapter_gguf)]
        pair = {
            text: logits_of(path, sequences, adapters=beside, threads=chosen.threads)
            for text, sequences in texts.items()
        }
        common = {"seed": seed, "steps": chosen.steps}
        found = {text: figures(texts[text], pair[text], None) for text in texts}
        rows.append({**common, "way": "beside", "texts": found})
        own = texts_of_files([data], base)
        one = read_adapter(run.adapter_gguf, base.family)

        def merged(name: str, start: int, stop: int) -> np.ndarray:
            return changed_rows(
                base.file.floats(name, start, stop), [(one, 1.0)], name, start, stop
            )

        for share in (None, *chosen.shares):
            out = folder / "merged.gguf"
            rounding = None
            if share is not None:
                rounding = compensated_rounding(
                    base,
                    own,
                    types={name: base.file.tensors[name].type for name in one.pairs},
                    weight_of=merged,
                    identity={"seed": seed},
                    general_share=share,
                )
            merge_file(
                base.file, [(one, 1.0)], out, type_of=lambda tensor: tensor.type, round=rounding
            )
            if rounding is not None:
                rounding.discard()
            found = {}
            for text, sequences in texts.items():
                logits = logits_of(out, sequences, threads=chosen.threads)
                found[text] = figures(sequences, logits, pair[text])
            way = "nearest" if share is None else f"share {share:g}"
            rows.append({**common, "way": way, "share": share, "texts": found})
            out.unlink()
    for row in rows:
        kept.add(row)


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each way the mean over seeds of each text's loss and KL from the pair."""
    found = []
    for way in dict.fromkeys(row["way"] for row in rows):
        some = [row for row in rows if row["way"] == way]
        entry: dict[str, Any] = {"way": way}
        for text in some[0]["texts"]:
            entry[text] = {
                key: interval([row["texts"][text][key] for row in some])
                for key in ("loss", "kl")
                if key in some[0]["texts"][text]
            }
        found.append(entry)
    return found


if __name__ == "__main__":
    main()
