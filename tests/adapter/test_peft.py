"""PEFT is the judge: what we read, write and merge is what PEFT itself computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamune.adapter import (
    AdapterError,
    WrongBaseError,
    check_base,
    merge,
    read_adapter,
    read_peft,
    write_adapter,
    write_gguf_adapter,
    write_peft,
)
from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from tests.adapter import tiny

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DIGEST = "sha256:" + "a" * 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("base") / "tiny.gguf", tiny.model())


def peft_adapter(folder: Path, *, tied: bool = False, seed: int = 1, **settings: Any) -> Any:
    """Save a PEFT adapter with random weights; return the PEFT model."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 12, "target_modules": ALL_LINEAR} | settings
    tuned = get_peft_model(tiny.model(tied=tied), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.data = parameter.data + noise if "magnitude" in name else noise
    embeds = "embed_tokens" in settings["target_modules"]
    tuned.save_pretrained(folder, save_embedding_layers=embeds)
    return tuned


def merged_weights(tuned: Any) -> dict[str, np.ndarray]:
    """Return what PEFT's own merge makes of every weight, under GGUF names and in file order."""
    merged = tuned.merge_and_unload()
    weights = {tiny.gguf_name(name): value.numpy() for name, value in merged.state_dict().items()}
    return {name: tiny.file_rows(name, weight) for name, weight in weights.items()}


SETTINGS = {
    "plain": {},
    "attention only": {"target_modules": ["q_proj", "k_proj"]},
    "rslora": {"use_rslora": True, "lora_alpha": 5},
    "patterns": {
        "rank_pattern": {"q_proj": 8, "layers.1.mlp.down_proj": 2},
        "alpha_pattern": {"k_proj": 3, "down_proj": 7},
    },
    "rslora with patterns": {"use_rslora": True, "rank_pattern": {"v_proj": 9}},
    "dora": {"use_dora": True},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_our_merge_is_pefts_merge(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = merged_weights(peft_adapter(tmp_path / "peft", **settings))
    adapter = read_peft(tmp_path / "peft", tiny.family_of(base))
    with ModelFile.open(base) as file:
        result = merge(file, [(adapter, 1.0)], tmp_path / "merged.gguf")
    assert {tensor.name for tensor in result.tensors} == set(adapter.pairs)
    assert result.kept == pytest.approx(1.0, abs=1e-3)  # F32 keeps everything
    with ModelFile.open(tmp_path / "merged.gguf") as merged:
        for name, weight in expected.items():
            np.testing.assert_allclose(
                merged.floats(name), np.atleast_2d(weight), rtol=1e-5, atol=2e-6, err_msg=name
            )


@pytest.mark.parametrize(
    "settings",
    [value for key, value in SETTINGS.items() if key != "dora"],
    ids=[key for key in SETTINGS if key != "dora"],
)
def test_a_gguf_adapter_holds_the_same_change(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    peft_adapter(tmp_path / "peft", **settings)
    family = tiny.family_of(base)
    with ModelFile.open(base) as file:
        written = write_gguf_adapter(
            tmp_path / "peft", file, family, tmp_path / "a.gguf", base_digest=DIGEST
        )
    read = read_adapter(tmp_path / "a.gguf", family)
    assert read.base_digest == DIGEST
    assert read.n_parameters == written.n_parameters
    assert read.pairs.keys() == written.pairs.keys()
    for name, pair in read.pairs.items():
        assert pair.rank == written.pairs[name].rank
        np.testing.assert_allclose(
            pair.change(), written.pairs[name].change(), rtol=1e-5, atol=1e-7, err_msg=name
        )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_way_back_to_peft_is_loaded_by_peft(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    from peft import PeftModel

    expected = merged_weights(peft_adapter(tmp_path / "one", **settings))
    family = tiny.family_of(base)
    write_peft(read_peft(tmp_path / "one", family), family, tmp_path / "two", base_name="tiny")
    loaded = PeftModel.from_pretrained(tiny.model(), tmp_path / "two")
    for name, weight in merged_weights(loaded).items():
        np.testing.assert_allclose(weight, expected[name], rtol=1e-5, atol=2e-6, err_msg=name)


def test_wholly_trained_weights_are_merged_and_never_made_a_gguf_adapter(
    base: Path, tmp_path: Path
) -> None:
    tuned = peft_adapter(tmp_path / "peft", target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapter = read_peft(tmp_path / "peft", tiny.family_of(base))
    assert set(adapter.replaced) == {"output.weight"}
    expected = merged_weights(tuned)
    with ModelFile.open(base) as file:
        merge(file, [(adapter, 1.0)], tmp_path / "merged.gguf")
        with pytest.raises(UnsupportedError, match=r"output\.weight"):
            write_adapter(adapter, file, tmp_path / "a.gguf", base_digest=None)
    with ModelFile.open(tmp_path / "merged.gguf") as merged:
        np.testing.assert_allclose(merged.floats("output.weight"), expected["output.weight"])


def test_dora_is_refused_as_a_gguf_adapter_with_the_way_out(base: Path, tmp_path: Path) -> None:
    peft_adapter(tmp_path / "peft", use_dora=True)
    with ModelFile.open(base) as file, pytest.raises(UnsupportedError, match="DoRA") as caught:
        write_gguf_adapter(
            tmp_path / "peft", file, tiny.family_of(base), tmp_path / "a.gguf", base_digest=None
        )
    assert "merge" in str(caught.value.hint)
    assert not (tmp_path / "a.gguf").exists()


def test_several_adapters_at_their_factors_add_up(base: Path, tmp_path: Path) -> None:
    family = tiny.family_of(base)
    adapters = []
    for seed, factor in [(1, 0.5), (2, -2.0)]:
        peft_adapter(tmp_path / str(seed), seed=seed)
        adapters.append((read_peft(tmp_path / str(seed), family), factor))
    with ModelFile.open(base) as file:
        merge(file, adapters, tmp_path / "merged.gguf")
        with ModelFile.open(tmp_path / "merged.gguf") as merged:
            for name in adapters[0][0].pairs:
                expected = file.floats(name) + sum(
                    factor * adapter.pairs[name].change() for adapter, factor in adapters
                )
                np.testing.assert_allclose(merged.floats(name), expected, rtol=1e-5, atol=1e-6)


def test_dora_with_a_partner_or_a_factor_is_refused(base: Path, tmp_path: Path) -> None:
    peft_adapter(tmp_path / "dora", use_dora=True)
    peft_adapter(tmp_path / "lora")
    family = tiny.family_of(base)
    dora, lora = (read_peft(tmp_path / name, family) for name in ("dora", "lora"))
    with ModelFile.open(base) as file:
        for adapters in [[(dora, 0.5)], [(dora, 1.0), (lora, 1.0)]]:
            with pytest.raises(UnsupportedError, match="alone"):
                merge(file, adapters, tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()


def test_an_adapter_is_bound_to_its_base(base: Path, tmp_path: Path) -> None:
    peft_adapter(tmp_path / "peft")
    family = tiny.family_of(base)
    with ModelFile.open(base) as file:
        write_gguf_adapter(tmp_path / "peft", file, family, tmp_path / "a.gguf", base_digest=DIGEST)
    adapter = read_adapter(tmp_path / "a.gguf", family)
    check_base(adapter, DIGEST)
    check_base(adapter, None)
    other = "sha256:" + "b" * 64
    with pytest.raises(WrongBaseError) as caught:
        check_base(adapter, other)
    assert "--force" in str(caught.value.hint)
    check_base(adapter, other, force=True)
    write_peft(adapter, family, tmp_path / "again")
    assert read_peft(tmp_path / "again", family).base_digest == DIGEST


# -- what cannot be expressed, and damage ------------------------------------------------------


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"alora_invocation_tokens": [1]}, "alora"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"r": 5}, "rank 4"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"alpha_pattern": {"(": 1}}, "pattern"),
    ],
)
def test_settings_that_cannot_be_expressed_are_refused_by_name(
    base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    from llamune.errors import LlamuneError

    peft_adapter(tmp_path / "peft")
    edit_config(tmp_path / "peft", **changes)
    with pytest.raises(LlamuneError, match=said):
        read_peft(tmp_path / "peft", tiny.family_of(base))


def test_a_pickle_is_refused_with_the_way_to_convert_it(base: Path, tmp_path: Path) -> None:
    peft_adapter(tmp_path / "peft")
    (tmp_path / "peft/adapter_model.safetensors").rename(tmp_path / "peft/adapter_model.bin")
    with pytest.raises(AdapterError, match="pickle") as caught:
        read_peft(tmp_path / "peft", tiny.family_of(base))
    assert "safe_serialization" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_tied_embeddings_are_not_changed_one_side_only(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "tied.gguf", tiny.model(tied=True))
    peft_adapter(tmp_path / "peft", tied=True, target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(UnsupportedError, match="one matrix"):
        read_peft(tmp_path / "peft", tiny.family_of(path))


def test_an_adapter_for_another_model_names_the_module(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    peft_adapter(tmp_path / "peft")
    path = tmp_path / "peft/adapter_model.safetensors"
    weights = load_file(path)
    wrong = {name.replace("layers.1.", "layers.7."): value for name, value in weights.items()}
    save_file(wrong, path)
    with pytest.raises(AdapterError, match=r"layers\.7\.") as caught:
        read_peft(tmp_path / "peft", tiny.family_of(base))
    assert "layers." in str(caught.value.hint)
    key = next(name for name in weights if "q_proj.lora_B" in name)
    save_file(weights | {key: torch.zeros(8, 4)}, path)
    with pytest.raises(AdapterError, match="shape"):
        read_peft(tmp_path / "peft", tiny.family_of(base))
    save_file({name: value for name, value in weights.items() if name != key}, path)
    with pytest.raises(AdapterError, match="missing"):
        read_peft(tmp_path / "peft", tiny.family_of(base))
    save_file(weights | {key: torch.full_like(weights[key], torch.nan)}, path)
    with pytest.raises(AdapterError, match="finite"):
        read_peft(tmp_path / "peft", tiny.family_of(base))


def test_half_precision_adapters_are_read(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    peft_adapter(tmp_path / "peft")
    path = tmp_path / "peft/adapter_model.safetensors"
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        weights = {name: value.to(dtype) for name, value in load_file(path).items()}
        save_file(weights, path)
        adapter = read_peft(tmp_path / "peft", tiny.family_of(base))
        name = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"
        np.testing.assert_array_equal(
            adapter.pairs["blk.0.attn_v.weight"].a, weights[name].float().numpy()
        )


@pytest.mark.parametrize("cut", [0, 7, 9, 200, -1])
def test_a_cut_weights_file_is_one_clear_error(base: Path, tmp_path: Path, cut: int) -> None:
    peft_adapter(tmp_path / "peft")
    path = tmp_path / "peft/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AdapterError, match="adapter_model"):
        read_peft(tmp_path / "peft", tiny.family_of(base))


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", "{" * 100_000])
def test_damaged_settings_are_one_clear_error(base: Path, tmp_path: Path, text: str) -> None:
    peft_adapter(tmp_path / "peft")
    (tmp_path / "peft/adapter_config.json").write_text(text)
    with pytest.raises(AdapterError, match="adapter_config"):
        read_peft(tmp_path / "peft", tiny.family_of(base))


def test_a_folder_without_an_adapter_says_so(base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="adapter_config"):
        read_adapter(tmp_path, tiny.family_of(base))
    with pytest.raises(AdapterError, match="no such adapter"):
        read_adapter(tmp_path / "nowhere", tiny.family_of(base))
    shutil.copy(base, tmp_path / "model.gguf")
    with pytest.raises(AdapterError, match="no adapter file"):
        read_adapter(tmp_path / "model.gguf", tiny.family_of(base))
