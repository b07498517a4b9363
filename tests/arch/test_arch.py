"""Families as data: what is read, what is refused, sizes and costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamune.arch import (
    Family,
    PermuteRows,
    Role,
    describe,
    families,
    is_extra,
    section_of,
)
from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf import Entry, ModelFile, NewTensor, write_gguf
from tests.tiny import FAMILIES, VARIANTS, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def changed(
    path: Path,
    out: Path,
    *,
    keys: dict[str, object] | None = None,
    drop: Callable[[str], bool] = lambda name: False,
) -> ModelFile:
    """Write a file again with other keys, or without some tensors, and open it."""
    file = ModelFile.open(path)
    metadata = {key: file.metadata.entry(key) for key in file.metadata}
    metadata |= {key: Entry.of(value) for key, value in (keys or {}).items()}
    tensors = [
        NewTensor(name, info.shape, info.type, lambda name=name: [file.packed(name)])
        for name, info in file.tensors.items()
        if not drop(name)
    ]
    write_gguf(out, metadata=metadata, tensors=tensors)
    return ModelFile.open(out)


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_every_tensor_of_a_file_has_its_rule(name: str, folder: Path) -> None:
    file = ModelFile.open(tiny_model(folder, name))
    family = describe(file)
    tables = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
    assert {rule.gguf for rule in family.rules.values()} == set(file.tensors) - tables
    assert family.name in families()


def test_starter(starter_path: Path) -> None:
    family = describe(ModelFile.open(starter_path))
    assert family.name == "llama"
    sizes = family.sizes
    assert (sizes.n_layer, sizes.d_model, sizes.n_head, sizes.n_head_kv) == (30, 576, 9, 3)
    assert (sizes.head_dim, sizes.d_ff, sizes.n_vocab) == (64, 1536, 49152)
    assert family.tied
    assert family.config["rms_norm_eps"] == pytest.approx(1e-5)
    assert family.config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100000.0}
    assert family.multiplying_parameters == 134_479_872


def test_another_architecture_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    path = tiny_model(folder, "llama")
    file = changed(path, tmp_path / "x.gguf", keys={"general.architecture": "mamba"})
    with pytest.raises(UnsupportedError, match="'mamba'"):
        describe(file)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"llama.expert_count": 8}, "llama.expert_count"),
        ({"llama.rope.scaling.type": "yarn"}, "yarn"),
        ({"llama.rope.dimension_count": 32}, "RoPE over 32 of 64"),
        ({"llama.attention.head_count_kv": [1, 2, 2]}, "differs from layer to layer"),
        ({"llama.attention.head_count": 3}, "3 heads"),
        ({"llama.attention.head_count": 0}, "0 heads"),
    ],
)
def test_a_setting_that_is_not_implemented_is_refused_by_name(
    keys: dict[str, object], said: str, folder: Path, tmp_path: Path
) -> None:
    file = changed(tiny_model(folder, "llama"), tmp_path / "x.gguf", keys=keys)
    with pytest.raises(UnsupportedError, match=said):
        describe(file)


def test_a_missing_tensor_is_named(folder: Path, tmp_path: Path) -> None:
    path = tiny_model(folder, "qwen2")
    file = changed(path, tmp_path / "x.gguf", drop=lambda name: name == "blk.1.attn_q.bias")
    with pytest.raises(UnsupportedError, match=r"blk\.1\.attn_q\.bias: missing"):
        describe(file)


def test_a_wrong_shape_is_named(folder: Path, tmp_path: Path) -> None:
    path = tiny_model(folder, "llama")
    keys = {"llama.feed_forward_length": 256}
    file = changed(path, tmp_path / "x.gguf", keys=keys)
    with pytest.raises(UnsupportedError, match=r"shape \(512, 256\), expected \(256, 256\)"):
        describe(file)


def test_linear_rope_scaling_is_read(folder: Path, tmp_path: Path) -> None:
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    family = describe(changed(tiny_model(folder, "llama"), tmp_path / "x.gguf", keys=keys))
    assert family.config["rope_parameters"]["rope_type"] == "linear"
    assert family.config["rope_parameters"]["factor"] == 4.0


def test_llama3_scaling_is_recovered_from_its_table(folder: Path) -> None:
    family = describe(ModelFile.open(tiny_model(folder, "llama3-scaling")))
    assert family.rope_factors == "rope_freqs.weight"
    assert family.config["rope_parameters"]["rope_type"] == "llama3"
    assert family.config["rope_parameters"]["factor"] == 8.0


def test_row_orders_undo_each_other() -> None:
    rows = PermuteRows(3)
    order = rows.torch_rows(24)
    assert order[rows.file_rows(24)].tolist() == list(range(24))
    assert order[:8].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_row_order_is_the_one_llama_cpp_writes() -> None:
    weight = np.arange(24)
    # convert_hf_to_gguf: reshape(n_head, 2, d / 2).swapaxes(1, 2)
    written = weight.reshape(3, 2, 4).swapaxes(1, 2).reshape(-1)
    assert written.tolist() == PermuteRows(3).file_rows(24).tolist()


@pytest.fixture
def llama(folder: Path) -> Family:
    return describe(ModelFile.open(tiny_model(folder, "llama")))


def test_targets(llama: Family) -> None:
    assert len(llama.linear_modules("all")) == 7 * 3
    attention = llama.linear_modules("attention")
    assert {path.rpartition(".")[2] for path in attention} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }
    mlp = llama.linear_modules("mlp")
    assert {**attention, **mlp} == llama.linear_modules("all")
    assert attention.keys().isdisjoint(mlp)
    assert len(llama.linear_modules(["down_proj"])) == 3
    assert "lm_head" not in llama.linear_modules("all")
    with pytest.raises(LlamuneError, match="c_attn"):
        llama.linear_modules(["q_proj", "c_attn"])


def test_costs(llama: Family) -> None:
    linear = sum(r.n_elements for r in llama.rules.values() if r.role is Role.LINEAR)
    assert llama.multiplying_parameters == linear + 320 * 256
    attention = 3 * 2 * 256 * 100  # layers, products, width, length
    forward = llama.flops_per_token(100)
    assert forward == 2 * llama.multiplying_parameters + attention
    training = llama.flops_per_token(100, training="lora")
    assert training == 4 * llama.multiplying_parameters + 3 * attention


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("token_embd.weight", "token embedding"),
        ("blk.17.ffn_down.weight", "block 17"),
        ("output.weight", "output"),
        ("output_norm.weight", "output"),
        ("rope_freqs.weight", "rope"),
        ("v.blk.0.attn_q.weight", "vision"),
        ("mm.0.bias", "vision"),
        ("mtp.norm.weight", "draft"),
        ("unheard.of", "other"),
    ],
)
def test_sections(name: str, section: str) -> None:
    assert section_of(name) == section
    assert is_extra(name) == (section in {"vision", "audio", "draft"})


def test_importing_needs_no_torch() -> None:
    code = "import sys, llamune.arch as a; a.families(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
