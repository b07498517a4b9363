"""Plain quantization at equal size: KL from the reference by nearest, importance, compensation.

    python -m benchmarks.quantize_quality              # a quarter of an hour on two cores
    python -m benchmarks.quantize_quality --types q4_k_m

The wide starter, written at each file type by ggml's rounding, by ggml's rounding with an
importance matrix, and by compensated rounding; and with the types chosen for the least predicted
loss within the same size (`--fit`), compensated as well. Calibration and importance matrix see the
same number of tokens of English technical prose, an eighth of it the general text that ships. KL
and loss are llama.cpp's, on held-out prose, on general text, and on a licence, which neither has
seen anything like. With `--keep`, rows are kept as they come and not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._rounding import (
    Kept,
    figures,
    in_own_process,
    logits_of,
    measured_texts,
    write_training_data,
)
from benchmarks.wide_starter import make

from llamune.calibrate import squared_inputs, write_importance
from llamune.convert import file_type, plan_quantize, quantize, read_importance
from llamune.gguf import ModelFile
from llamune.jobs import fit_plan, opened, rounding_for_plan
from llamune.jobs.calibrating import calibration_windows, texts_of_files
from llamune.nn import load
from llamune.text import tokenizer_of

TYPES = ("q4_k_m", "q4_0", "q3_k_m", "q2_k")


def main() -> None:
    """Write, measure and print each file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp")
    parser.add_argument("--keep", type=Path, help="file of rows; those in it are not measured")
    chosen = parser.parse_args()
    kept = Kept(chosen.keep)
    source = make()
    with ModelFile.open(source) as file:
        texts = measured_texts(tokenizer_of(file))
    with tempfile.TemporaryDirectory(prefix="llamune-quality-") as scratch:
        folder = Path(scratch)
        os.environ["LLAMUNE_HOME"] = str(folder / "home")
        data = folder / "prose.jsonl"
        write_training_data(data)
        wanted = [
            (kind, way)
            for kind in chosen.types
            for way in chosen.ways
            if not kept.has(type=kind, way=way)
        ]
        references = {
            text: logits_of(source, sequences, threads=chosen.threads)
            for text, sequences in (texts.items() if wanted else ())
        }
        if references and not kept.has(type="f32"):
            found = {text: figures(texts[text], references[text], None) for text in texts}
            kept.add({"type": "f32", "way": "", "bytes": source.stat().st_size, "texts": found})
        for kind, way in wanted:
            out = folder / f"{kind}-{way}.gguf"
            effort = in_own_process(WAYS[way], source, kind, out, data)
            row = {"type": kind, "way": way, "bytes": out.stat().st_size}
            row |= {"seconds": effort.seconds, "peak_bytes": effort.peak_bytes}
            row["texts"] = {}
            for text, sequences in texts.items():
                logits = logits_of(out, sequences, threads=chosen.threads)
                row["texts"][text] = figures(sequences, logits, references[text])
            kept.add(row)
            out.unlink()
    print(json.dumps({"model": "wide starter", "results": kept.rows, "ratios": ratios(kept.rows)}))


def by_nearest(source: Path, kind: str, out: Path, _: Path) -> None:
    """Write by ggml's rounding."""
    with ModelFile.open(source) as file:
        quantize(plan_quantize(file, file_type(kind)), out)


def by_importance(source: Path, kind: str, out: Path, data: Path) -> None:
    """Write by ggml's rounding, weighted by an importance matrix of the calibration's own text.

    The types are those of the plain mix, so that the size is the same.
    """
    matrix = out.with_suffix(".imatrix.gguf")
    with opened(str(source)) as base:
        windows = calibration_windows(base, texts_of_files([data], base))
        sums = squared_inputs(load(base.file, family=base.family), base.family, windows)
        length = windows.ids.shape[1]
        write_importance(matrix, sums, n_tokens=windows.n_tokens, length=length, datasets=["prose"])
        plan = plan_quantize(base.file, file_type(kind), importance=read_importance(matrix))
        quantize(plan, out)


def by_compensation(source: Path, kind: str, out: Path, data: Path) -> None:
    """Write by compensated rounding."""
    with opened(str(source)) as base:
        plan = plan_quantize(base.file, file_type(kind))
        rounding = rounding_for_plan(base, plan, [data])
        quantize(plan, out, round=rounding)
        rounding.discard()


def by_fit(source: Path, kind: str, out: Path, data: Path) -> None:
    """Choose the types within the size of the file type, and write by compensated rounding."""
    with opened(str(source)) as base:
        budget = plan_quantize(base.file, file_type(kind)).nbytes
        plan = fit_plan(base, budget, [data]).plan
        rounding = rounding_for_plan(base, plan, [data])
        quantize(plan, out, round=rounding)
        rounding.discard()


WAYS: dict[str, Callable[[Path, str, Path, Path], None]] = {
    "nearest": by_nearest,
    "importance": by_importance,
    "compensated": by_compensation,
    "fit": by_fit,
}


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each type and text the KL of compensated over importance-matrix rounding."""
    kls = {
        (row["type"], row["way"]): {text: f["kl"] for text, f in row["texts"].items()}
        for row in rows
        if row["way"]
    }
    return {
        kind: {text: ours[text] / theirs[text] for text in ours}
        for (kind, way), ours in kls.items()
        if way == "compensated" and (theirs := kls.get((kind, "importance")))
    }


if __name__ == "__main__":
    main()
