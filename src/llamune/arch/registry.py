"""Families by GGUF architecture name, and the checks that every one of them passes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from llamune.arch.described import Config, Described
from llamune.arch.family import Family
from llamune.arch.sections import is_extra
from llamune.errors import UnsupportedError

__all__ = ["NewKeys", "converts", "describe", "families", "keys_of_config", "register"]

Reader = Callable[[Described], Family]
Writer = Callable[[Config], "NewKeys"]
READERS: dict[str, Reader] = {}
WRITERS: dict[str, Writer] = {}
# computed by llama.cpp or read through `Family.rope_factors`; hold no trained weight
ROPE_TABLES = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


def register(architecture: str) -> Callable[[Reader], Reader]:
    """Make a function the reader of an architecture (`general.architecture`)."""

    def add(reader: Reader) -> Reader:
        READERS[architecture] = reader
        return reader

    return add


@dataclass(frozen=True, kw_only=True)
class NewKeys:
    """What a transformers config becomes in a GGUF file.

    Args:
        architecture: `general.architecture`.
        keys: without the architecture's prefix; int, float, str, bool or a list.
        tables: tensors that the config makes (RoPE factors), by GGUF name.
    """

    architecture: str
    keys: Mapping[str, Any]
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)


def converts(*model_classes: str) -> Callable[[Writer], Writer]:
    """Make a function the writer of keys for transformers model classes."""

    def add(writer: Writer) -> Writer:
        WRITERS.update(dict.fromkeys(model_classes, writer))
        return writer

    return add


def keys_of_config(config: Config) -> NewKeys:
    """Return the GGUF keys of a transformers config.

    Raises:
        UnsupportedError: the model class, or an entry, is not implemented.
    """
    load_families()
    names = config.get("architectures", [])
    for name in names:
        if name in WRITERS:
            return WRITERS[name](config)
    raise UnsupportedError(
        f"{config.path}: model class {', '.join(names) or 'unnamed'} is not implemented",
        hint=f"implemented: {', '.join(sorted(WRITERS))}",
    )


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


def describe(model: Described) -> Family:
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


def check_tensors(model: Described, family: Family) -> None:
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


def fault_of(model: Described, name: str, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with a tensor, or None."""
    tensor = model.tensors.get(name)
    if tensor is None:
        return "missing"
    if tuple(tensor.shape) != shape:
        return f"shape {tuple(tensor.shape)}, expected {shape}"
    return None
