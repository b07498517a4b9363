"""What each file type costs in quality, on the wide starter: the table of docs/guide/quality.md.

    python -m benchmarks.quality                    # about half a minute a type and core
    python -m benchmarks.quality --types q4_k_m

Against the F32 file: sizes, error of the weights, and, in llama.cpp on the text that ships with
llamune, perplexity, KL divergence and agreement on the likeliest token, each with its standard
error. The wide starter's weights are turned at random, which evens outliers out: the figures rank
file types, and are no promise for another model. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._measure import measured_on
from benchmarks._tables import quality as shown
from benchmarks.wide_starter import make

from llamune.anatomy import compare
from llamune.convert import file_type, plan_quantize, predict_size, quantize
from llamune.evaluate import sample_text, text_quality, windows
from llamune.gguf import ModelFile
from llamune.text import tokenizer_of

TYPES = ("f32", "f16", "q8_0", "q6_k", "q4_k_m", "q4_0", "q2_k")


def main() -> None:
    """Write, measure and print each type."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--text", type=Path, help="default: the text that ships with llamune")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    source = make()
    text = sample_text() if chosen.text is None else chosen.text.read_text(encoding="utf-8")
    with ModelFile.open(source) as file:
        sequences = windows(tokenizer_of(file).encode(text, parse_special=False), bos_id=None)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in chosen.types:
            path = Path(folder) / f"{kind}.gguf"
            results[kind] = {
                **measured_weights(source, path, kind, threads=chosen.threads),
                **measured_text(source, path, sequences, threads=chosen.threads),
            }
            path.unlink()
            print(kind, json.dumps(results[kind]), flush=True)
    figures = {
        "benchmark": "quality",
        **measured_on(),
        "model": "wide starter",
        "n_tokens": sum(len(ids) - 1 for ids in sequences),
        "results": results,
    }
    print(shown(figures))
    print(json.dumps(figures))


def measured_weights(source: Path, out: Path, kind: str, *, threads: int) -> dict[str, Any]:
    """Write a file type; return its size and what rounding did to the weights."""
    with ModelFile.open(source) as reference:
        quantize(plan_quantize(reference, file_type(kind)), out, threads=threads)
        sizes = {name: predict_size(reference, file_type(name)) for name in ("f32", "f16", kind)}
        with ModelFile.open(out) as file:
            found = compare(reference, file)
    assert out.stat().st_size == sizes[kind].nbytes
    squared = sum(change.squared for change in found.changed)
    before = sum(change.squared_before for change in found.changed)
    return {
        "bytes": sizes[kind].nbytes,
        "share_of_f32": sizes[kind].nbytes / sizes["f32"].nbytes,
        "share_of_f16": sizes[kind].nbytes / sizes["f16"].nbytes,
        "bits_per_weight": sizes[kind].bpw,
        "relative_error": (squared / before) ** 0.5 if before else 0.0,
        "relative_error_of": {section.name: section.relative for section in found.sections()},
    }


def measured_text(
    source: Path, out: Path, sequences: Sequence[Sequence[int]], *, threads: int
) -> dict[str, Any]:
    """Return what the file type costs on text, each figure with its standard error."""
    found = text_quality([source], [out], sequences, n_threads=threads)
    return {
        "perplexity": found.perplexity,
        "perplexity_error": found.perplexity * found.error,
        "loss_change": found.change,
        "loss_change_error": found.change_error,
        "mean_kl": found.agreement.mean_kl,
        "mean_kl_error": found.agreement.kl_error,
        "same_top_token": found.agreement.top1,
        "same_top_token_error": found.top1_error,
    }


if __name__ == "__main__":
    main()
