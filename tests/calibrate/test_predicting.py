"""Predicted losses: gradients as the dense model has them, fewer bits cost more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llamune.arch import Family, PermuteRows, describe
from llamune.calibrate import predicted_losses, windows_of
from llamune.calibrate.cost import forecast
from llamune.calibrate.sensitivity import sensitivity_of
from llamune.gguf import ModelFile, quant_type
from llamune.nn import load
from tests.calibrate.test_rounding import texts
from tests.tiny import tiny_model


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_sensitivity_is_the_mean_squared_gradient_of_the_dense_model(
    tmp_path: Path, family: str
) -> None:
    with ModelFile.open(tiny_model(tmp_path, family, "F32")) as file:
        described = describe(file)
        packed = load(file, family=described, dtype=torch.float32, device="cpu")
        # one text a window: the dense model is given no positions that begin anew
        windows = windows_of([texts(1, described.sizes.n_vocab, seed=3)[0] * 8][:1], length=32)
        found = sensitivity_of(packed, described, windows)
        dense: Any = load(file, family=described, dtype=torch.float32, device="cpu", unpack=True)
    rule = described.rules["model.layers.1.self_attn.o_proj.weight"]
    twisted = next(
        (r for r in described.rules.values() if isinstance(r.transform, PermuteRows)), rule
    )
    for one in (rule, twisted):
        squares = torch.zeros(one.shape[0])

        def keep(_module: Any, _inputs: Any, out: torch.Tensor, squares: Any = squares) -> None:
            def add(gradient: torch.Tensor) -> None:
                squares.add_(gradient.flatten(0, 1).square().sum(dim=0))

            out.register_hook(add)

        handle = dense.get_submodule(one.module).register_forward_hook(keep)
        for ids in windows.ids:
            logits = dense(input_ids=ids[None], use_cache=False).logits[0]
            torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum").backward()
        handle.remove()
        expected = squares / windows.n_tokens
        if isinstance(one.transform, PermuteRows):
            expected = expected[torch.from_numpy(one.transform.file_rows(len(expected)))]
        torch.testing.assert_close(found.linear[one.gguf], expected, rtol=2e-3, atol=1e-7)
    assert found.embedding.shape == (described.sizes.d_model,)
    assert found.output.shape == (described.sizes.n_vocab,)


@pytest.mark.parametrize(  # tied, and not
    "family", ["llama", pytest.param("qwen2", marks=pytest.mark.slow)]
)
def test_fewer_bits_are_predicted_to_cost_more(tmp_path: Path, family: str) -> None:
    ladder = [quant_type(kind) for kind in ("Q2_K", "Q4_K", "Q8_0")]
    with ModelFile.open(tiny_model(tmp_path, family, "F32")) as file:
        described = describe(file)
        names = {r.gguf for r in described.rules.values() if r.role in {"linear", "embedding"}}
        losses = predicted_losses(
            load(file, family=described, dtype=torch.float32, device="cpu"),
            described,
            windows_of(texts(30, described.sizes.n_vocab), length=32),
            weight_of=file.floats,
            candidates=dict.fromkeys(names, ladder),
        )
    assert losses.keys() == names
    for name, ways in losses.items():
        costs = [ways[kind.name] for kind in ladder]
        assert costs == sorted(costs, reverse=True), name
        assert costs[-1] > 0


def nine_billion(small: Family) -> Family:
    """Return a family with the shapes of a 9B model of 42 layers, from a tiny one's rules."""
    sizes = {256: 3584, 512: 14336, 320: 256_000}
    rules = {}
    for name, rule in small.rules.items():
        shape = tuple(sizes.get(n, n) for n in rule.shape)
        if ".layers.0." not in name:
            if ".layers." not in name:
                rules[name] = replace(rule, shape=shape)
            continue
        for index in range(42):
            where = {
                field: getattr(rule, field).replace(old, new)
                for field, old, new in (
                    ("module", "layers.0.", f"layers.{index}."),
                    ("gguf", "blk.0.", f"blk.{index}."),
                )
            }
            rules[f"{index}:{name}"] = replace(rule, shape=shape, **where)
    return replace(small, rules=rules, sizes=replace(small.sizes, n_layer=42, d_model=3584))


def test_the_cost_of_a_9b_model_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamune.calibrate.cost.seconds_per_weight", lambda _: 2e-7)
    with ModelFile.open(tiny_model(tmp_path, "gemma2", "F32")) as file:
        large = nine_billion(describe(file))
    kind = quant_type("Q4_K")
    types = {rule.gguf: kind for rule in large.rules.values() if rule.role == "linear"}
    cost = forecast(large, types, n_tokens=14_336, gflops=180)
    assert 3600 < cost.seconds < 5 * 3600  # about two hours on two cores
    assert 2e9 < cost.memory_bytes < 8e9
    faster = forecast(large, types, n_tokens=14_336, gflops=20_000)
    assert faster.seconds < 0.3 * cost.seconds
    assert forecast(large, {}, n_tokens=14_336, gflops=180).seconds < 0.6 * cost.seconds
