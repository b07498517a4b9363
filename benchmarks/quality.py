"""What each file type costs in quality, on the wide starter: the table of docs/guide/quality.md.

    python -m benchmarks.quality                    # about half a minute a type and core
    python -m benchmarks.quality --types q4_k_m

The wide starter's weights are turned at random, which evens outliers out: the figures rank file
types, and are no promise for another model. Prints a table in Markdown and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._measure import measured_on
from benchmarks.wide_starter import make

from llamune.anatomy import compare
from llamune.convert import file_type, plan_quantize, quantize
from llamune.evaluate import TextQuality, sample_text, text_quality, windows
from llamune.gguf import ModelFile
from llamune.text import tokenizer_of

TYPES = ("f32", "f16", "q8_0", "q6_k", "q4_k_m", "q4_0", "q2_k")
HEADINGS = ("type", "GB", "of F16", "bits", "weights", "perplexity", "KL (nats)", "same top")


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
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, ModelFile.open(source) as reference:
        f16_bytes = plan_quantize(reference, file_type("f16")).nbytes
        for kind in chosen.types:
            path = Path(folder) / f"{kind}.gguf"
            quantize(plan_quantize(reference, file_type(kind)), path, threads=chosen.threads)
            with ModelFile.open(path) as file:
                found = compare(reference, file)
                n_weights = sum(tensor.n_elements for tensor in file.tensors.values())
                bits = 8 * sum(t.nbytes for t in file.tensors.values()) / n_weights
            squared = sum(change.squared for change in found.changed)
            before = sum(change.squared_before for change in found.changed)
            error = (squared / before) ** 0.5 if before else 0.0
            quality = text_quality([source], [path], sequences, n_threads=chosen.threads)
            size = path.stat().st_size
            path.unlink()
            shown = row(
                kind, size=size, f16_bytes=f16_bytes, bits=bits, error=error, quality=quality
            )
            print(shown, flush=True)
            results[kind] = {
                "bytes": size,
                "bits_per_weight": bits,
                "relative_error": error,
                "perplexity": quality.perplexity,
                "loss_change": quality.change,
                "loss_change_error": quality.change_error,
                "mean_kl": quality.agreement.mean_kl,
                "mean_kl_error": quality.agreement.kl_error,
                "same_top_token": quality.agreement.top1,
            }
    print(
        json.dumps(
            {
                "benchmark": "quality",
                **measured_on(),
                "model": "wide starter",
                "n_tokens": sum(len(ids) - 1 for ids in sequences),
                "results": results,
            }
        )
    )


def row(
    kind: str, *, size: int, f16_bytes: int, bits: float, error: float, quality: TextQuality
) -> str:
    """Return one row of the table."""
    agreement = quality.agreement
    cells = (
        kind.upper(),
        f"{size / 1e9:.3f}",
        f"{100 * size / f16_bytes:.1f} %",
        f"{bits:.2f}",
        f"{100 * error:.2f} %",
        f"{quality.perplexity:.2f}",
        f"{agreement.mean_kl:.4f} ± {agreement.kl_error:.4f}",
        f"{100 * agreement.top1:.1f} ± {100 * quality.top1_error:.1f} %",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
