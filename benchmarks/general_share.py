"""How much general text a merge's calibration should see: gain in the domain, loss outside.

    python -m benchmarks.general_share                 # ten minutes a seed on two cores

The starter (Q4_1), tuned on English technical prose, is merged into its own types by compensated
rounding, with a share of the calibration tokens taken from the general text that ships. llama.cpp
computes the loss on held-out prose, on other general text, and on a licence, and the KL from the
adapter beside its base. With `--keep`, rows are kept as they come and not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._rounding import (
    Kept,
    figures,
    interval,
    logits_of,
    measured_texts,
    write_training_data,
)

import llamune
from llamune.adapter import changed_rows, read_adapter
from llamune.adapter import merge as merge_file
from llamune.engine import AdapterFile
from llamune.jobs import opened
from llamune.jobs.calibrating import compensated_rounding, texts_of_files
from llamune.store import starter

SHARES = (0.0, 0.125, 0.25, 0.5)


def main() -> None:
    """Tune, merge with each share, and print what each keeps and costs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp")
    parser.add_argument("--keep", type=Path, help="file of rows; those in it are not measured")
    chosen = parser.parse_args()
    kept = Kept(chosen.keep)
    with tempfile.TemporaryDirectory(prefix="llamune-share-") as scratch:
        folder = Path(scratch)
        os.environ["LLAMUNE_HOME"] = str(folder / "home")
        write_training_data(folder / "prose.jsonl")
        for seed in chosen.seeds:
            if not kept.has(seed=seed, steps=chosen.steps):
                compare(seed, folder, kept, chosen)
    rows = [row for row in kept.rows if row["steps"] == chosen.steps]
    print(json.dumps({"steps": chosen.steps, "results": rows, "means": means(rows)}))


def compare(seed: int, folder: Path, kept: Kept, chosen: argparse.Namespace) -> None:
    """Tune once, merge with every share."""
    data = folder / "prose.jsonl"
    path = starter.fetch()
    run = llamune.tune(
        str(path), data=data, name=f"prose-{seed}", seed=seed, steps=chosen.steps, rank=16,
        learning_rate=5e-4, batch=4, max_length=512, validation=0.0, evaluations=0,
        train_on="all",
    )  # fmt: skip
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
