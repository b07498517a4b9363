"""Apple's GPU, without one: every operator and type of a training step is one that MPS has.

`mps_operators.txt` lists the ATen overloads that torch implements for MPS or builds from others,
made from torch's own operator table (`python -m tests.nn.test_mps`, torch 2.13). It says that a
kernel exists, not that it was run.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llamune.gguf import ModelFile, quant_type
from llamune.nn import PackedLinear, load, unpack, unpackable
from tests.tiny import FAMILIES, tiny_model

LIST = Path(__file__).with_name("mps_operators.txt")
TYPES = {
    *(torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
}
# what a CPU tensor's dispatch shows for operators that are not ATen's
OURS = {
    "llamune.packed_linear.default",
    "llamune.packed_linear_backward.default",
    "profiler._record_function_enter_new.default",
    "profiler._record_function_exit._RecordFunction",
}


class Record(TorchDispatchMode):
    """Notes each operator and each tensor type that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operators.add(str(func))
        tensors = [one for one in tree_leaves((args, out)) if isinstance(one, torch.Tensor)]
        self.types |= {tensor.dtype for tensor in tensors}
        return out


def supported() -> set[str]:
    return set(LIST.read_text().split())


def check(record: Record) -> None:
    assert record.operators, "nothing was recorded"
    assert not sorted(record.operators - OURS - supported())
    assert record.types <= TYPES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step(family: str, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    file = ModelFile.open(tiny_model(folder, family, "Q4_K"))
    model = load(file, device="cpu", dtype=torch.float32)
    # on MPS transformers' attention is used; its fused form has kernels of its own there
    model.config._attn_implementation = "eager"
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.how = "torch"
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    ids = torch.arange(3, 43).view(2, 20)
    with Record() as record:
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert "llamune.packed_linear_backward.default" in record.operators
    check(record)


@pytest.mark.parametrize("kind", unpackable())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_unpacking(kind: str, dtype: torch.dtype) -> None:
    rows = torch.from_numpy(np.zeros((2, 2 * quant_type(kind).block_bytes), dtype=np.uint8))
    with Record() as record:
        unpack(rows, kind, dtype)
    check(record)


def test_the_list_agrees_with_torchs_own_table() -> None:
    known = set(mps_operators())
    assert len(supported() & known) > 0.9 * len(supported())
    assert "aten.mm.default" in known
    assert "aten.linalg_eig.default" not in supported()  # a kernel that MPS lacks


def mps_operators() -> Iterator[str]:
    """Yield the overloads that torch's table implements for MPS or builds from others."""
    text = (resources.files("torchgen") / "packaged/ATen/native/native_functions.yaml").read_text()
    entries = yaml.load(text, Loader=yaml.CSafeLoader)
    names = {entry["func"].partition("(")[0]: entry for entry in entries}
    for name, entry in names.items():
        keys = " ".join(entry.get("dispatch", {"CompositeImplicit": ""}))
        delegate = names.get(entry.get("structured_delegate", ""), {})
        keys += " ".join(delegate.get("dispatch", {}))
        if "MPS" in keys or "Composite" in keys:
            base, _, overload = name.partition(".")
            yield f"aten.{base}.{overload or 'default'}"


if __name__ == "__main__":
    LIST.write_text("\n".join(sorted(mps_operators())) + "\n")
