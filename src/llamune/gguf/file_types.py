"""llama.cpp's file types: recipes over a whole file, and the number that labels them.

A label (`general.file_type`) only says what was asked for; sizes come from the tensor table.

Source: `enum llama_ftype` of `llama.h`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llamune.errors import UnsupportedError
from llamune.gguf.quant_types import QuantType, quant_type

__all__ = ["FILE_TYPES", "FileType", "file_type", "file_type_of_number"]


@dataclass(frozen=True)
class FileType:
    """A recipe over a whole file.

    Args:
        name: llama.cpp's name, such as `Q4_K_M`.
        id: number in `general.file_type`.
        base: the type of most tensors.
        use: what it is used for, in a few words.
    """

    name: str
    id: int
    base: QuantType
    use: str = ""

    def __str__(self) -> str:
        return self.name


NUMBERS = (  # id, name, type of most tensors
    (0, "F32", "F32"),
    (1, "F16", "F16"),
    (2, "Q4_0", "Q4_0"),
    (3, "Q4_1", "Q4_1"),
    (7, "Q8_0", "Q8_0"),
    (8, "Q5_0", "Q5_0"),
    (9, "Q5_1", "Q5_1"),
    (10, "Q2_K", "Q2_K"),
    (11, "Q3_K_S", "Q3_K"),
    (12, "Q3_K_M", "Q3_K"),
    (13, "Q3_K_L", "Q3_K"),
    (14, "Q4_K_S", "Q4_K"),
    (15, "Q4_K_M", "Q4_K"),
    (16, "Q5_K_S", "Q5_K"),
    (17, "Q5_K_M", "Q5_K"),
    (18, "Q6_K", "Q6_K"),
    (19, "IQ2_XXS", "IQ2_XXS"),
    (20, "IQ2_XS", "IQ2_XS"),
    (21, "Q2_K_S", "Q2_K"),
    (22, "IQ3_XS", "IQ3_S"),
    (23, "IQ3_XXS", "IQ3_XXS"),
    (24, "IQ1_S", "IQ1_S"),
    (25, "IQ4_NL", "IQ4_NL"),
    (26, "IQ3_S", "IQ3_S"),
    (27, "IQ3_M", "IQ3_S"),
    (28, "IQ2_S", "IQ2_XS"),
    (29, "IQ2_M", "IQ2_S"),
    (30, "IQ4_XS", "IQ4_XS"),
    (31, "IQ1_M", "IQ1_M"),
    (32, "BF16", "BF16"),
    (36, "TQ1_0", "TQ1_0"),
    (37, "TQ2_0", "TQ2_0"),
    (38, "MXFP4_MOE", "MXFP4"),
    (39, "NVFP4", "NVFP4"),
    (40, "Q1_0", "Q1_0"),
    (41, "Q2_0", "Q2_0"),
)

USES = {
    "F32": "training, exact",
    "F16": "reference",
    "BF16": "reference",
    "Q8_0": "no loss that shows",
    "Q6_K": "hardly any loss",
    "Q5_K_M": "small loss",
    "Q5_K_S": "small loss",
    "Q5_1": "where Q5_K does not fit",
    "Q5_0": "where Q4_K does not fit",
    "Q4_K_M": "the usual choice",
    "Q4_K_S": "a bit smaller than Q4_K_M",
    "Q4_1": "old",
    "Q4_0": "old; more loss than Q4_K",
    "IQ4_NL": "near Q4_K_S",
    "IQ4_XS": "near Q4_K_S, smaller",
    "Q3_K_L": "loss shows",
    "Q3_K_M": "loss shows",
    "Q3_K_S": "large loss",
    "IQ3_M": "loss shows",
    "IQ3_S": "loss shows",
    "IQ3_XS": "large loss",
    "IQ3_XXS": "large loss",
    "Q2_K": "models too big otherwise",
    "Q2_K_S": "models too big otherwise",
    "IQ2_M": "models too big otherwise",
    "IQ2_S": "models too big otherwise",
    "IQ2_XS": "models too big otherwise",
    "IQ2_XXS": "very big models only",
    "IQ1_M": "very big models only",
    "IQ1_S": "very big models only",
    "TQ1_0": "ternary models",
    "TQ2_0": "ternary models",
    "Q1_0": "1-bit models",
    "Q2_0": "2-bit models",
    "MXFP4_MOE": "experts MXFP4, rest Q8_0",
    "NVFP4": "made by NVIDIA's tools",
}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

FILE_TYPES: Mapping[str, FileType] = MappingProxyType(
    {name: FileType(name, number, quant_type(base), USES[name]) for number, name, base in NUMBERS}
)
BY_NUMBER = {kind.id: kind for kind in FILE_TYPES.values()}
GUESSED = 1024  # llama.cpp adds it when it guessed the type


def file_type(name: str) -> FileType:
    """Return the file type of a name, in any case.

    Raises:
        UnsupportedError: there is no such file type.
    """
    found = FILE_TYPES.get(ALIASES.get(name.upper(), name.upper()))
    if found is None:
        raise UnsupportedError(
            f"file type {name!r} is not known", hint=f"one of: {', '.join(FILE_TYPES)}"
        )
    return found


def file_type_of_number(number: int) -> FileType | None:
    """Return the file type that `general.file_type` names; None for an unknown number."""
    return BY_NUMBER.get(number & ~GUESSED if number > GUESSED else number)
