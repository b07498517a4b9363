"""The pass over a model's layers: its own forward, better than nearest, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llamune.arch import describe
from llamune.calibrate import CalibrateError, mixed, round_model, windows_of
from llamune.calibrate.layers import Layers, watching
from llamune.gguf import ModelFile, quant_type, rows_to_floats
from llamune.nn import load
from tests.tiny import tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]


def texts(n: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Return token ids of some texts of odd lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, rng.integers(3, 40)).tolist() for _ in range(n)]


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_by_layer_is_the_models_own_forward(tmp_path: Path, family: str) -> None:
    with ModelFile.open(tiny_model(tmp_path, family, "F32")) as file:
        described = describe(file)
        model = load(file, family=described, dtype=torch.float32, device="cpu")
        windows = windows_of(texts(6, described.sizes.n_vocab), length=32)
        layers = Layers(model, described, windows)
        for index in range(len(layers)):
            layers.advance(index)
        with torch.no_grad():
            direct = model.model(
                input_ids=windows.ids, position_ids=windows.positions, use_cache=False
            )
            ours = model.model.norm(torch.cat(layers.hidden))
        torch.testing.assert_close(ours, direct.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_the_inputs(tmp_path: Path) -> None:
    with ModelFile.open(tiny_model(tmp_path, "llama", "F32")) as file:
        described = describe(file)
        model = load(file, family=described, dtype=torch.float32, device="cpu")
        windows = windows_of(texts(6, described.sizes.n_vocab), length=32)
        layers = Layers(model, described, windows)
        moments = layers.moments(0)
        seen: list[torch.Tensor] = []
        query = layers.linears(0)["blk.0.attn_q.weight"]
        hook = query.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            model.model(input_ids=windows.ids, position_ids=windows.positions, use_cache=False)
        hook.remove()
        flat = torch.cat(seen).flatten(0, 1)
    assert moments.n_tokens == windows.n_tokens == len(flat)
    expected = flat.T @ flat / len(flat)
    for name in ("attn_q", "attn_k", "attn_v"):
        torch.testing.assert_close(moments.mean(f"blk.0.{name}.weight"), expected)
    shared = [sorted(name.split(".")[2] for name in group) for group in moments.groups()]
    assert ["attn_k", "attn_q", "attn_v"] in shared
    assert ["ffn_gate", "ffn_up"] in shared
    assert ["ffn_down"] in shared


def plan(file: ModelFile, kind: str) -> dict[str, Any]:
    """Return the types of all linear layers."""
    return {
        rule.gguf: quant_type(kind)
        for rule in describe(file).rules.values()
        if rule.role == "linear"
    }


def rounded(file: ModelFile, folder: Path, kind: str = "Q4_0", **options: Any) -> Any:
    """Round a tiny model."""
    described = describe(file)
    model = load(file, family=described, dtype=torch.float32, device="cpu")
    windows = windows_of(texts(30, described.sizes.n_vocab), length=32)
    return round_model(
        model,
        described,
        windows,
        weight_of=options.pop("weight_of", file.floats),
        types=plan(file, kind),
        folder=folder,
        fingerprint={"kind": kind},
        **options,
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi3"])
def test_no_tensor_is_worse_than_by_nearest(tmp_path: Path, family: str) -> None:
    with ModelFile.open(tiny_model(tmp_path, family, "F32")) as file:
        result = rounded(file, tmp_path / "work")
        assert {gain.name for gain in result.gains} == set(plan(file, "Q4_0"))
        assert all(gain.error <= gain.nearest_error * (1 + 1e-5) for gain in result.gains)
        better = [gain for gain in result.gains if gain.error < 0.97 * gain.nearest_error]
        assert len(better) > len(result.gains) // 2
        name = "blk.0.attn_output.weight"
        weight = file.floats(name)
        halves = np.concatenate(
            [result(name, half, quant_type("Q4_0")) for half in np.split(weight, 2)]
        )
        stored = rows_to_floats(halves, quant_type("Q4_0"))
        assert np.abs(stored - weight).max() < np.abs(weight).max()
        again = result(name, weight, quant_type("Q4_0"))  # a second stream begins at row 0
        np.testing.assert_array_equal(again, halves)


def test_a_stopped_pass_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    with ModelFile.open(tiny_model(tmp_path, "llama", "F32")) as file:
        whole = rounded(file, tmp_path / "whole")

        def stop(_: int) -> None:
            raise StopError

        with pytest.raises(StopError):
            rounded(file, tmp_path / "work", advance=stop)
        asked: list[str] = []

        def weight_of(name: str, start: int, stop: int) -> Any:
            asked.append(name)
            return file.floats(name, start, stop)

        again = rounded(file, tmp_path / "work", weight_of=weight_of)
        assert asked
        assert not any(name.startswith("blk.0.") for name in asked)
        assert len(asked) == len(set(asked))  # a merged weight is worth computing once
        assert again.gains == whole.gains
        for name in plan(file, "Q4_0"):
            first, second = (
                result(name, file.floats(name), quant_type("Q4_0")) for result in (whole, again)
            )
            np.testing.assert_array_equal(first, second)


def test_a_folder_of_another_pass_is_begun_anew(tmp_path: Path) -> None:
    with ModelFile.open(tiny_model(tmp_path, "llama", "F32")) as file:
        rounded(file, tmp_path / "work", "Q4_0")
        result = rounded(file, tmp_path / "work", "Q5_0")
        assert {gain.type for gain in result.gains} == {"Q5_0"}


def test_slabs_of_rows_are_rounded_as_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ModelFile.open(tiny_model(tmp_path, "phi3", "F32")) as file:
        whole = rounded(file, tmp_path / "whole")
        monkeypatch.setattr("llamune.calibrate.rounding.SLAB_ROWS", 96)
        parts = rounded(file, tmp_path / "parts")
        for one, other in zip(parts.gains, whole.gains, strict=True):
            assert one.name == other.name
            assert one.error == pytest.approx(other.error, rel=1e-3)
            assert one.nearest_error == pytest.approx(other.nearest_error, rel=1e-3)
        assert "output.weight" in whole.types  # given slab by slab too


def test_what_is_written_can_be_discarded(tmp_path: Path) -> None:
    with ModelFile.open(tiny_model(tmp_path, "llama", "F32")) as file:
        rounded(file, tmp_path / "work").discard()
    assert not (tmp_path / "work").exists()


def test_windows_keep_texts_apart() -> None:
    windows = windows_of([[1, 2, 3], [4, 5], [6, 7, 8, 9]], length=4)
    assert windows.ids.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert windows.positions.tolist() == [[0, 1, 2, 0], [0, 0, 1, 2]]
    with pytest.raises(CalibrateError, match="no text"):
        windows_of([[], []])


def test_mixing_takes_the_share_that_is_asked_for() -> None:
    own, general = [[1] * 10] * 50, [[2] * 10] * 50
    tokens = [
        token for text in mixed(own, general, general_share=0.25, n_tokens=400) for token in text
    ]
    assert (tokens.count(1), tokens.count(2)) == (300, 100)
    assert mixed(own, general, general_share=0.5, n_tokens=99) == mixed(
        own, general, general_share=0.5, n_tokens=99
    )


def test_watching_leaves_no_hook_behind() -> None:
    layer = torch.nn.Linear(4, 4)
    with watching({"w": layer}):
        layer(torch.ones(1, 4))
    assert not layer._forward_pre_hooks
