"""Unpacking in torch gives ggml's own floats, for random blocks of every type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llamune.errors import UnsupportedError
from llamune.gguf import QUANT_TYPES, quant_type, rows_to_floats
from llamune.nn import unpack, unpackable
from llamune.nn.unpack import require_unpackable

BLOCKED = [name for name in unpackable() if quant_type(name).block_size > 1]
WANTED = [
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4"),
]
REFUSED = [kind.name for kind in QUANT_TYPES.values() if kind.name not in unpackable()]
WITH_MINIMUM = {"Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"}


def random_rows(name: str, *, n_rows: int = 7, n_blocks: int = 6, seed: int = 0) -> np.ndarray:
    """Return packed rows of random bytes whose floats are finite."""
    kind = quant_type(name)
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (n_rows, n_blocks * kind.block_bytes), dtype=np.uint8)
    for _ in range(100):
        finite = np.isfinite(rows_to_floats(rows, kind)).reshape(n_rows, n_blocks, -1).all(-1)
        if finite.all():
            return rows
        blocks = rows.reshape(n_rows, n_blocks, -1)
        fresh = random.integers(0, 256, blocks.shape, dtype=np.uint8)
        rows = np.where(finite[..., None], blocks, fresh).reshape(rows.shape)
    raise AssertionError("no finite blocks found")


def test_every_type_that_files_carry_can_be_unpacked() -> None:
    assert set(WANTED) <= set(unpackable())


@pytest.mark.parametrize("name", WANTED)
def test_unpacking_equals_ggml(name: str) -> None:
    rows = random_rows(name)
    wanted = rows_to_floats(rows, quant_type(name))
    found = unpack(torch.from_numpy(rows), name, torch.float32).numpy()
    # a scaled quant minus a minimum: ggml's C code may round the product and the sum at once
    slack = 2.0**-22 * np.abs(wanted).max() if name in WITH_MINIMUM else 0.0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=slack)


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_the_f32_values_rounded_once(name: str, dtype: torch.dtype) -> None:
    rows = torch.from_numpy(random_rows(name))
    assert torch.equal(unpack(rows, name, dtype), unpack(rows, name, torch.float32).to(dtype))


@pytest.mark.parametrize("name", BLOCKED)
def test_ggmls_own_code_writes_where_it_is_told(name: str) -> None:
    rows = torch.from_numpy(random_rows(name))
    plain = unpack(rows, name, torch.float32)
    out = torch.empty_like(plain)
    assert unpack(rows, name, torch.float32, how="ggml", out=out) is out
    torch.testing.assert_close(out, plain, rtol=0, atol=2**-22 * float(plain.abs().max()))


def test_f32_rows_are_a_view_of_the_same_memory() -> None:
    rows = torch.arange(64, dtype=torch.float32).view(4, 16).view(torch.uint8)
    assert unpack(rows, "F32", torch.float32).data_ptr() == rows.data_ptr()


@pytest.mark.parametrize(
    "kind", [k.name for k in QUANT_TYPES.values() if k.name not in unpackable()]
)
def test_other_types_are_refused_by_name(kind: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"model\.gguf: blk\.0: quant type {kind}"):
        require_unpackable(kind, "model.gguf: blk.0")


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKED)
def test_compiled_gives_the_same_floats(name: str) -> None:
    rows = torch.from_numpy(random_rows(name))
    plain = unpack(rows, name, torch.float32)
    compiled = unpack(rows, name, torch.float32, how="compiled")
    torch.testing.assert_close(compiled, plain, rtol=0, atol=2**-22 * float(plain.abs().max()))
