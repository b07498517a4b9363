"""Families by GGUF architecture name, and the checks that every one of them passes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from llamune.arch.family import Family
from llamune.arch.sections import is_extra
from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile

__all__ = ["describe", "families", "register"]

Reader = Callable[[ModelFile], Family]
READERS: dict[str, Reader] = {}
# computed by llama.cpp or read through `Family.rope_factors`; hold no trained weight
ROPE_TABLES = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


def register(architecture: str) -> Callable[[Reader], Reader]:
    """Make a function the reader of an architecture (`general.architecture`)."""

    def add(reader: Reader) -> Reader:
        READERS[architecture] = reader
        return reader

    return add


@cache
def load_families() -> None:
    """Import every module of this folder: each family registers itself."""
    package = importlib.import_module("llamune.arch")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def families() -> list[str]:
    """Return the architecture names that are implemented."""
    load_families()
    return sorted(READERS)


def describe(model: ModelFile) -> Family:
    """Return the architecture of a model file, every tensor accounted for.

    Raises:
        UnsupportedError: the architecture, a setting or a tensor is not implemented exactly.
        MissingKey: the file lacks a key that its architecture needs.
    """
    load_families()
    reader = READERS.get(model.architecture)
    if reader is None:
        raise UnsupportedError(
            f"{model.path}: architecture {model.architecture!r} is not implemented",
            hint=f"implemented: {', '.join(families())}",
        )
    family = reader(model)
    check_tensors(model, family)
    return family


def check_tensors(model: ModelFile, family: Family) -> None:
    """Raise unless each rule has its tensor, each tensor its rule, and the shapes agree."""
    faults = [
        f"{rule.gguf}: {fault}"
        for rule in family.rules.values()
        if (fault := fault_of(model, rule.gguf, rule.shape))
    ]
    used = {rule.gguf for rule in family.rules.values()} | ROPE_TABLES
    faults += [
        f"{name}: not a tensor of {family.name}"
        for name in model.tensors
        if name not in used and not is_extra(name)
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UnsupportedError(
            f"{model.path}: {faults[0]}{more}",
            hint=f"this is not the {family.name} architecture that llamune implements",
        )


def fault_of(model: ModelFile, name: str, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with a tensor, or None."""
    tensor = model.tensors.get(name)
    if tensor is None:
        return "missing"
    if tuple(tensor.shape) != shape:
        return f"shape {tuple(tensor.shape)}, expected {shape}"
    return None
