"""Every family and quant type: torch against llama.cpp by the proof's rule, on tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamune.evaluate import prove
from llamune.gguf import ModelFile, NewTensor, floats_to_rows, quant_type, write_gguf
from llamune.store import resolve
from tests.tiny import FAMILIES, VARIANTS, tiny_model

KINDS = ("F32", "F16", "Q8_0", "Q4_0", "Q4_K")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def in_kind(folder: Path, family: str, kind: str) -> Path:
    """Return a tiny model with every matrix in one quant type."""
    source = tiny_model(folder, family)
    if kind == "F32":
        return source
    quant = quant_type(kind)
    out = folder / f"{family}-{kind}.gguf"
    with ModelFile.open(source) as file:
        tensors = [
            NewTensor(
                name, info.shape, quant, lambda n=name: [floats_to_rows(file.floats(n), quant)]
            )
            if len(info.shape) == 2 and not name.startswith("rope")
            else NewTensor(name, info.shape, info.type, lambda n=name: [file.packed(n)])
            for name, info in file.tensors.items()
        ]
        metadata = {key: file.metadata.entry(key) for key in file.metadata}
        write_gguf(out, metadata=metadata, tensors=tensors)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_a_tiny_model_is_served_as_it_is_trained(folder: Path, family: str, kind: str):
    proof = prove(resolve(str(in_kind(folder, family, kind))), n_threads=1)
    assert proof.verdict == "pass", proof.reasons
    assert proof.exact.mean_kl < (1e-8 if family.startswith("gemma") else 1e-11)


@pytest.mark.slow
def test_the_starter_is_served_as_it_is_trained(starter_path: Path):
    proof = prove(resolve(str(starter_path)), n_threads=1)
    assert proof.verdict == "pass", proof.reasons
    assert proof.exact.mean_kl < 1e-10
    assert proof.tokens.n > 20
    assert proof.template is not None
    assert proof.template.n == 8
