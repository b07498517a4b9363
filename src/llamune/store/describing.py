"""What a model file says of itself, in the words of a store's config blob."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamune.gguf import ModelFile, file_type_of_number

__all__ = ["describe_gguf", "human_count", "license_key"]


def describe_gguf(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the entries of a config blob that the file's header answers.

    Raises:
        GgufError: the file cannot be read, or breaks a rule of the format.
    """
    with ModelFile.open(list(paths), mapped=False) as file:
        n_parameters = sum(tensor.n_elements for tensor in file.tensors.values())
        described = {
            "model_format": "gguf",
            "model_family": file.architecture,
            "model_families": [file.architecture],
            "model_type": human_count(n_parameters),
        }
        number = file.metadata.integer("general.file_type", default=-1)
    kind = file_type_of_number(number)
    return described | ({"file_type": kind.name} if kind is not None else {})


def license_key(paths: Sequence[Path]) -> str | None:
    """Return what the file's header calls its licence, if anything."""
    with ModelFile.open(list(paths), mapped=False) as file:
        return file.metadata.text("general.license", default="") or None


def human_count(number: int) -> str:
    """Return a count as Ollama prints it: `9.2B`, `134.52M`, `512K`."""
    for unit, scale, digits in (("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 0)):
        if number >= scale:
            whole = number % scale == 0
            return f"{number / scale:.{0 if whole else digits}f}{unit}"
    return str(number)
