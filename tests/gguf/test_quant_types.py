"""The table of quant types against two independent builds of ggml and gguf-py's own table."""

from __future__ import annotations

import ctypes

import pytest

from llamune.errors import UnsupportedError
from llamune.gguf import QUANT_TYPES, quant_type
from llamune.gguf.kernels import library
from llamune.gguf.quant_types import REMOVED_TYPES

KINDS = list(QUANT_TYPES.values())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_ggml_has_the_same_layout(kind) -> None:
    traits = library().ggml_get_type_traits(kind.id).contents
    assert traits.type_name.decode().upper() == kind.name.upper()
    assert (traits.block_size, traits.type_size) == (kind.block_size, kind.block_bytes)


def test_ggml_has_no_type_that_we_lack() -> None:
    ggml = library()
    ggml.ggml_type_size.restype = ctypes.c_size_t
    present = {number for number in range(43) if ggml.ggml_type_size(number)}
    assert present == set(QUANT_TYPES)


def test_gguf_py_has_the_same_layouts() -> None:
    from gguf import GGML_QUANT_SIZES

    for kind, (size, nbytes) in GGML_QUANT_SIZES.items():
        ours = QUANT_TYPES[int(kind)]
        if kind.name != "Q8_1":  # gguf-py says 40 bytes; ggml has 36, and no file holds it
            assert (ours.name, ours.block_size, ours.block_bytes) == (kind.name, size, nbytes)


def test_bits_a_weight() -> None:
    assert quant_type("Q4_K").bpw == 4.5
    assert quant_type("q6_k").bpw == 6.5625
    assert quant_type(39).bpw == 4.25


@pytest.mark.parametrize("number", REMOVED_TYPES)
def test_removed_types_are_refused_by_name(number: int) -> None:
    with pytest.raises(UnsupportedError, match=f"{REMOVED_TYPES[number]}.*removed"):
        quant_type(number)


@pytest.mark.parametrize("which", [43, 99, -1, "Q4_X", ""])
def test_unknown_types_are_refused(which) -> None:
    with pytest.raises(UnsupportedError, match="not known"):
        quant_type(which)
