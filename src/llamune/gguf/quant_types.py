"""Every tensor storage format of ggml: its number in the file and its exact block size.

Source: `ggml.h` and `ggml-common.h` of ggml 0.20; the table is checked against two independent
builds in tests/gguf/test_quant_types.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llamune.errors import UnsupportedError

__all__ = ["QUANT_TYPES", "REMOVED_TYPES", "QuantType", "quant_type"]


@dataclass(frozen=True)
class QuantType:
    """One storage format of a tensor.

    Args:
        name: ggml's name, such as `Q4_K`.
        id: number in the file.
        block_size: weights a block.
        block_bytes: bytes a block.
    """

    name: str
    id: int
    block_size: int
    block_bytes: int

    @property
    def bpw(self) -> float:
        """Bits per weight."""
        return 8 * self.block_bytes / self.block_size

    @property
    def is_float(self) -> bool:
        """Whether each weight is stored by itself as a floating-point number."""
        return self.name in {"F64", "F32", "F16", "BF16"}

    @property
    def is_integer(self) -> bool:
        """Whether each weight is stored by itself as a whole number."""
        return self.block_size == 1 and not self.is_float

    @property
    def is_quantized(self) -> bool:
        """Whether weights share a scale in blocks."""
        return self.block_size > 1

    def row_bytes(self, n_columns: int) -> int:
        """Return the bytes of a row of `n_columns` weights, a multiple of the block size."""
        return n_columns // self.block_size * self.block_bytes

    def __str__(self) -> str:
        return self.name


LAYOUTS = (  # id, name, weights a block, bytes a block
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
)

QUANT_TYPES: Mapping[int, QuantType] = MappingProxyType(
    {number: QuantType(name, number, size, nbytes) for number, name, size, nbytes in LAYOUTS}
)

REMOVED_TYPES: Mapping[int, str] = MappingProxyType(
    {
        4: "Q4_2",
        5: "Q4_3",
        31: "Q4_0_4_4",
        32: "Q4_0_4_8",
        33: "Q4_0_8_8",
        36: "IQ4_NL_4_4",
        37: "IQ4_NL_4_8",
        38: "IQ4_NL_8_8",
    }
)
"""Types that ggml once wrote and no longer reads."""

BY_NAME = {kind.name: kind for kind in QUANT_TYPES.values()}


def quant_type(which: str | int) -> QuantType:
    """Return the type of a name (any case) or a number.

    Raises:
        UnsupportedError: there is no such type, or ggml has removed it.
    """
    found = QUANT_TYPES.get(which) if isinstance(which, int) else BY_NAME.get(which.upper())
    if found is not None:
        return found
    if isinstance(which, int) and which in REMOVED_TYPES:
        raise UnsupportedError(
            f"tensor type {which} ({REMOVED_TYPES[which]}) was removed from ggml",
            hint="convert the file with the version of llama.cpp that made it",
        )
    raise UnsupportedError(
        f"tensor type {which!r} is not known", hint=f"known: {', '.join(sorted(BY_NAME))}"
    )
