"""Every family against llama.cpp: the same weights give the same distributions.

llama.cpp rounds activations to 8 bits where weights are quantized; so the exact comparison runs
it on the same weights written as F32, and the file itself is held to that rounding's size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llamune.engine import prompt_logits
from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf
from llamune.nn import coarse_gelu, load
from tests.tiny import FAMILIES, VARIANTS, tiny_model

IDS = torch.randint(3, 320, (48,), generator=torch.Generator().manual_seed(1))
EXACT = 1e-9  # mean KL, the rule of the proof
COARSE_GELU = 2e-8  # Gemma's GELU is a table of 16-bit floats in llama.cpp
ROUNDED_ACTIVATIONS = 3e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def ours(path: Path) -> Tensor:
    model = load(ModelFile.open(path), device="cpu", dtype=torch.float32)
    with torch.no_grad(), coarse_gelu(model):
        logits: Tensor = model(IDS[None]).logits[0]
    return logits


def theirs(path: Path) -> Tensor:
    found = prompt_logits(path, [IDS.tolist()], kv_type="f32", flash=False, n_threads=1)
    return torch.from_numpy(next(iter(found)))


def mean_divergence(one: Tensor, other: Tensor) -> float:
    """Return the mean over positions of KL(one, other)."""
    p, q = one.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def as_f32(path: Path) -> Path:
    """Write the same weights as F32."""
    out = path.with_suffix(".f32.gguf")
    file = ModelFile.open(path)
    f32 = quant_type("F32")
    tensors = [
        NewTensor(name, info.shape, f32, lambda name=name: [file.floats(name)])
        for name, info in file.tensors.items()
    ]
    metadata: dict[str, Entry] = {key: file.metadata.entry(key) for key in file.metadata}
    write_gguf(out, metadata=metadata, tensors=tensors)
    return out


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_f32_weights_agree_to_the_last_bits(family: str, folder: Path) -> None:
    path = tiny_model(folder, family)
    limit = COARSE_GELU if "gemma" in family else EXACT
    assert mean_divergence(theirs(path), ours(path)) < limit


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q4_K"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_weights_are_the_ones_that_are_served(family: str, kind: str, folder: Path) -> None:
    path = tiny_model(folder, family, kind)
    limit = COARSE_GELU if "gemma" in family else EXACT
    found = ours(path)
    assert mean_divergence(theirs(as_f32(path)), found) < limit
    assert mean_divergence(theirs(path), found) < ROUNDED_ACTIVATIONS


def test_the_comparison_can_fail(folder: Path) -> None:
    path = tiny_model(folder, "llama")
    model = load(ModelFile.open(path), device="cpu", dtype=torch.float32)
    for layer in model.model.layers:
        layer.input_layernorm.variance_epsilon = 3e-5
    with torch.no_grad():
        wrong = model(IDS[None]).logits[0]
    assert mean_divergence(theirs(path), wrong) > EXACT
    assert np.isfinite(wrong.numpy()).all()
