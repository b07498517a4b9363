"""An adapter to go on from: by the name of a model or a run, a PEFT folder, or a GGUF file."""

from __future__ import annotations

import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamune.adapter import LoraAdapter, check_base, is_peft_folder, read_adapter, write_peft
from llamune.arch import Family
from llamune.errors import LlamuneError, UnsupportedError
from llamune.jobs.preparing import Opened
from llamune.runs import Run, RunError
from llamune.store import resolve

__all__ = ["adapter_folder", "adapter_named", "settings_of_adapter"]


def adapter_named(text: str, base: Opened) -> LoraAdapter:
    """Return the adapter that a person names.

    Args:
        text: a model or run that `tune` made, `name#n`, a PEFT folder, or a GGUF file.
        base: the model it is for.

    Raises:
        LlamuneError: there is none, or it was made for another base.
    """
    adapter = read_adapter(path_named(text), base.family)
    check_base(adapter, base.model.digest)
    return adapter


def path_named(text: str) -> Path:
    """Return the folder or file of an adapter.

    Raises:
        LlamuneError: nothing of that name has one.
    """
    path = Path(text).expanduser()
    if is_peft_folder(path) or (path.is_file() and path.suffix.lower() == ".gguf"):
        return path
    try:
        run = Run.find(text)
    except RunError:
        adapters = resolve(text).adapters
        if len(adapters) != 1:
            raise LlamuneError(
                f"{text}: has {len(adapters) or 'no'} adapters, one is wanted"
            ) from None
        return adapters[0].path
    if not run.adapter.is_dir():
        raise LlamuneError(f"{run.reference} has no finished adapter", hint="choose another run")
    return run.adapter


@contextmanager
def adapter_folder(adapter: LoraAdapter, family: Family) -> Iterator[Path]:
    """Yield the adapter as a PEFT folder."""
    with tempfile.TemporaryDirectory(prefix="llamune-adapter-") as scratch:
        folder = Path(scratch) / "adapter"
        write_peft(adapter, family, folder)
        yield folder


def settings_of_adapter(adapter: LoraAdapter, family: Family) -> dict[str, Any]:
    """Return the fields of a recipe that an adapter fixes: method, rank, alpha, targets.

    Raises:
        UnsupportedError: no recipe can say how it is made.
    """
    if adapter.replaced:
        raise UnsupportedError(f"{adapter.path}: has whole trained weights; it cannot go on")
    module_of = {rule.gguf: path for path, rule in family.linear_modules("all").items()}
    ranks: dict[str, set[int]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for name, pair in adapter.pairs.items():
        if name not in module_of:
            raise UnsupportedError(f"{adapter.path}: adapts {name}, which is no layer of a block")
        leaf = module_of[name].rpartition(".")[2]
        ranks[leaf].add(pair.rank)
        counts[leaf] += 1
    strength = strength_of(adapter)
    everywhere = Counter(path.rpartition(".")[2] for path in module_of.values())
    uneven = [leaf for leaf in counts if counts[leaf] != everywhere[leaf] or len(ranks[leaf]) > 1]
    if strength is None or uneven:
        what = f"{uneven[0]} differs from block to block" if uneven else "alpha differs"
        raise UnsupportedError(f"{adapter.path}: {what}; a recipe cannot say that")
    rank = Counter(pair.rank for pair in adapter.pairs.values()).most_common(1)[0][0]
    return {
        "method": "dora" if adapter.is_dora else "lora",
        "rank": rank,
        "ranks": {leaf: min(found) for leaf, found in ranks.items() if min(found) != rank},
        **strength,
        "targets": "all" if set(counts) == set(everywhere) else tuple(sorted(counts)),
    }


def strength_of(adapter: LoraAdapter) -> dict[str, Any] | None:
    """Return the recipe's `alpha` and `rslora` that give each pair its scale; None: none do."""
    for rslora in (False, True):
        alphas = [
            pair.scale * (math.sqrt(pair.rank) if rslora else pair.rank)
            for pair in adapter.pairs.values()
        ]
        if math.isclose(min(alphas), max(alphas), rel_tol=1e-6):
            return {"alpha": round(alphas[0], 6), "rslora": rslora}
    return None
