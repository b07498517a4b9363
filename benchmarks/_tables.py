"""Put the tables of the guide in place from committed results; nothing is measured here.

    python -m benchmarks._tables

A page, or the README, marks where a table stands with two comments, `<!-- figures: quality -->`
and `<!-- end of figures -->`; `tests/test_tables.py` holds what is between against the results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks._headlines import headlines
from benchmarks._markdown import table
from benchmarks._measure import HERE
from benchmarks._plan_tables import full_fits, full_memory, plan, plan_machines
from benchmarks._rounding_tables import general_share, merge, quantize_quality
from benchmarks._training_tables import full, served_quality

RESULTS = HERE / "results"
PAGES = [*sorted(HERE.parent.glob("*.md")), *sorted((HERE.parent / "docs").rglob("*.md"))]
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

Figures = Mapping[str, Any]
NAMES = {"ours": "llamune", "gguf_py": "gguf-py", "llama_cpp": "llama.cpp", "copy": "plain copy"}


def main() -> None:
    """Write every marked table of every page."""
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(page.relative_to(HERE.parent))


def filled(text: str) -> str:
    """Return a page with its tables as the newest results have them."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def sourced(work: Callable[[Figures], str]) -> str:
    """Return a comparison's table and what it was measured on; nothing before it was recorded."""
    paths = sorted(RESULTS.glob(f"{work.__name__}-*.json"))
    if not paths:
        return ""
    path = paths[-1]
    kept = json.loads(path.read_text(encoding="utf-8"))
    machine = kept["machine"]
    source = (
        f"`benchmarks/results/{path.name}`: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['instruction_set']}, {machine['date'][:10]}."
    )
    return f"{work(kept['figures'])}\n\n{source}\n"


def quality(figures: Figures) -> str:
    """Return what each file type costs on text."""
    results = figures["results"]
    headings = (
        "type", "GB", "of F32", "of F16", "bits a weight", "error of weights", "perplexity",
        "KL, nats a token", "same top token",
    )  # fmt: skip
    rows = [
        (
            kind.upper(),
            f"{one['bytes'] / 1e9:.3f}",
            f"{100 * one['share_of_f32']:.1f} %",
            f"{100 * one['share_of_f16']:.1f} %",
            f"{one['bits_per_weight']:.2f}",
            f"{100 * one['relative_error']:.2f} %",
            f"{one['perplexity']:.2f} ± {one['perplexity_error']:.2f}",
            f"{one['mean_kl']:.4f} ± {one['mean_kl_error']:.4f}",
            f"{100 * one['same_top_token']:.1f} ± {100 * one['same_top_token_error']:.1f} %",
        )
        for kind, one in results.items()
    ]
    return table(headings, rows)


def quantize(figures: Figures) -> str:
    """Return how fast each program quantizes, and its private memory."""
    names = list(dict.fromkeys(name for found in figures["results"].values() for name in found))
    headings = ["type", *(NAMES.get(name, name) for name in names)]

    def cell(one: Figures | None) -> str:
        if one is None:
            return "–"
        return f"{one['million_weights_per_second']:.0f} · {one['peak_private_bytes'] / 1e6:.0f} MB"

    rows = [
        [kind.upper(), *(cell(found.get(name)) for name in names)]
        for kind, found in figures["results"].items()
    ]
    return table(headings, rows)


def load(figures: Figures) -> str:
    """Return how soon a model is ready to train, and its private memory."""
    rows = [
        (NAMES.get(name, name), f"{one['seconds']:.2f} s", f"{one['private_bytes'] / 1e6:.0f} MB")
        for name in ("ours", "transformers")
        for one in [figures[name]]
    ]
    return table(("starter model", "ready after", "private memory"), rows)


def unpack(figures: Figures) -> str:
    """Return how fast each quant type unpacks, and what that costs in a training step."""
    ways = ("ours", "torch", "torch_compiled", "libgguf", "gguf_py")
    tokens = list(figures["aims"])
    headings = ["type", *(NAMES.get(way, way.replace("_", ", ")) for way in ways)]
    headings += [f"of a step of {n} tokens" for n in tokens]
    rows = [
        [
            kind,
            *(f"{one[way]:.2f}" if way in one else "–" for way in ways),
            *(f"{100 * one['share'][n]:.1f} %" for n in tokens),
        ]
        for kind, one in sorted(figures["types"].items())
    ]
    return table(headings, rows)


WORKS = (
    quality, quantize, load, unpack, merge, quantize_quality, general_share, plan, full,
    served_quality,
)  # fmt: skip
TABLES: Mapping[str, Callable[[], str]] = {
    **{work.__name__: partial(sourced, work) for work in WORKS},
    "full_fits": full_fits,
    "full_memory": full_memory,
    "plan_machines": plan_machines,
    "headlines": partial(headlines, "en"),
    "headlines_ja": partial(headlines, "ja"),
}


if __name__ == "__main__":
    main()
