"""What a packed layer multiplies in llama.cpp: ggml's own rounding of inputs as the judge."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llamune.engine import native
from llamune.gguf import ModelFile
from llamune.nn import coarse_inputs, load
from llamune.nn.served import rounded_input
from tests.tiny import tiny_model


def ggml_rounded(x: Tensor, name: str, block: np.dtype[np.void]) -> Tensor:
    """Return x as ggml's packing of inputs keeps it."""
    packed = np.zeros(x.numel() // block["levels"].shape[0], dtype=block)
    values = x.contiguous().numpy()
    getattr(native.library(), f"quantize_row_{name}_ref")(
        ctypes.c_void_p(values.ctypes.data),
        ctypes.c_void_p(packed.ctypes.data),
        ctypes.c_int64(x.numel()),
    )
    floats = packed["step"].astype(np.float32)[:, None] * packed["levels"].astype(np.float32)
    return torch.from_numpy(floats).view(x.shape)


Q8_0 = np.dtype([("step", "<f2"), ("levels", "i1", 32)])
Q8_K = np.dtype([("step", "<f4"), ("levels", "i1", 256), ("sums", "<i2", 16)])


def inputs() -> Tensor:
    numbers = torch.Generator().manual_seed(2)
    x = torch.randn(7, 512, generator=numbers) * torch.logspace(-3, 3, 7)[:, None]
    x[2, 256:] = 0
    return x


@pytest.mark.parametrize(
    ("kind", "name", "block"),
    [
        ("Q4_0", "q8_0", Q8_0),
        ("Q8_0", "q8_0", Q8_0),
        ("Q4_K", "q8_K", Q8_K),
        ("IQ3_S", "q8_K", Q8_K),
    ],
)
def test_inputs_are_rounded_as_ggml_rounds_them(
    kind: str, name: str, block: np.dtype[np.void]
) -> None:
    x = inputs()
    wanted = ggml_rounded(x, name, block)
    found = rounded_input(x, kind)
    # where a value lies between two levels, the last bit of a quotient decides
    other = ~torch.isclose(found, wanted, rtol=1e-5, atol=0)
    assert other.float().mean() < 1e-3
    assert ((found - wanted).abs() <= x.abs().amax(-1, keepdim=True) / 126).all()
    assert (found != x).float().mean() > 0.5


def test_floats_are_rounded_to_the_weights_type() -> None:
    x = inputs()
    assert torch.equal(rounded_input(x, "F32"), x)
    assert torch.equal(rounded_input(x, "BF16"), x.bfloat16().float())
    assert torch.equal(rounded_input(x, "F16"), x.half().float())


def test_a_model_rounds_its_inputs_only_while_it_is_asked_to(tmp_path: Path) -> None:
    model = load(ModelFile.open(tiny_model(tmp_path, "llama", "Q4_K")), dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        before = model(ids).logits
        with coarse_inputs(model):
            rounded = model(ids).logits
        after = model(ids).logits
    assert torch.equal(before, after)
    assert not torch.equal(before, rounded)
    assert (before - rounded).abs().max() < 0.1 * before.abs().max()
