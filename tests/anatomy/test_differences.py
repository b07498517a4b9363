"""Differences between files, and an adapter's effect, against dense computations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from llamune.adapter import LoraAdapter, LoraPair
from llamune.anatomy import adapter_effects, by_block, by_module, compare, numbers
from llamune.gguf import Entry, ModelFile, NewTensor, floats_to_rows, quant_type, write_gguf

CHANCE = np.random.default_rng(7)
WEIGHTS = {
    name: CHANCE.standard_normal((6, 32)).astype(np.float32)
    for name in (
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.0.ffn_up.weight",
        "blk.10.attn_q.weight",
        "blk.2.attn_q.weight",
    )
}


def write(
    path: Path,
    weights: Mapping[str, np.ndarray],
    keys: Mapping[str, object] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Path:
    tensors = []
    for name, floats in weights.items():
        kind = quant_type((kinds or {}).get(name, "F32"))
        packed = floats_to_rows(floats, kind)
        tensors.append(NewTensor(name, floats.shape, kind, lambda packed=packed: [packed]))
    metadata = {key: Entry.of(value) for key, value in (keys or {}).items()}
    write_gguf(path, metadata=metadata, tensors=tensors)
    return path


def test_a_copy_is_the_same(tmp_path: Path) -> None:
    keys = {"general.name": "a", "tokenizer.ggml.tokens": ["x", "y"]}
    paths = [write(tmp_path / name, WEIGHTS, keys) for name in ("a.gguf", "b.gguf")]
    with ModelFile.open(paths[0]) as a, ModelFile.open(paths[1]) as b:
        found = compare(a, b)
    assert found.is_same
    assert [tensor.name for tensor in found.same] == list(WEIGHTS)


@pytest.mark.parametrize("slab", [32, 1 << 20])
def test_changes_are_counted_and_measured(
    tmp_path: Path, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "SLAB_ELEMENTS", slab)
    other = {name: floats.copy() for name, floats in WEIGHTS.items()}
    other["blk.0.attn_q.weight"][4, 3] += 2
    other["blk.0.attn_q.weight"][5, 1] -= 1
    other["extra"] = other.pop("token_embd.weight")
    other["blk.2.attn_q.weight"] = other["blk.2.attn_q.weight"][:3]
    first = write(tmp_path / "a.gguf", WEIGHTS, {"same": 1, "gone": "x", "tokenizer.x": 1})
    second = write(
        tmp_path / "b.gguf",
        other,
        {"same": 1, "new": [1, 2], "tokenizer.x": 2},
        {"blk.10.attn_q.weight": "Q8_0"},
    )
    seen: list[int] = []
    with ModelFile.open(first) as a, ModelFile.open(second, mapped=False) as b:
        found = compare(a, b, advance=seen.append)
        rounded = b.floats("blk.10.attn_q.weight")
    assert [(key.key, key.before, key.after) for key in found.keys] == [
        ("gone", "x", None),
        ("new", None, "2 × i32"),
    ]
    assert [(key.before, key.after) for key in found.tokenizer_keys] == [("1", "2")]
    assert [tensor.name for tensor in found.only_before] == ["token_embd.weight"]
    assert [tensor.name for tensor in found.only_after] == ["extra"]
    assert [pair[1].shape for pair in found.reshaped] == [(3, 32)]
    changed = {change.before.name: change for change in found.changed}
    assert list(changed) == ["blk.0.attn_q.weight", "blk.10.attn_q.weight"]
    one = changed["blk.0.attn_q.weight"]
    assert (one.n_changed, one.share, one.bits_change) == (2, 2 / 192, 0)
    assert one.largest == pytest.approx(2, rel=1e-5)
    norm = np.linalg.norm(WEIGHTS["blk.0.attn_q.weight"])
    assert one.relative == pytest.approx(np.sqrt(5) / norm, rel=1e-5)
    assert [(sample.row, sample.column) for sample in one.samples] == [(4, 3), (5, 1)]
    before = WEIGHTS["blk.10.attn_q.weight"]
    two = changed["blk.10.attn_q.weight"]
    assert two.relative == pytest.approx(np.linalg.norm(rounded - before) / np.linalg.norm(before))
    assert two.bits_change == 8.5 - 32
    assert [section.name for section in found.sections()] == ["block 0", "block 10"]
    assert sum(seen) == sum(WEIGHTS[name].nbytes for name in (*changed, "blk.0.ffn_up.weight"))


def test_weights_that_were_zero_change_without_limit(tmp_path: Path) -> None:
    zeros = {"t": np.zeros((1, 4), np.float32)}
    first, second = (
        write(tmp_path / "a.gguf", zeros),
        write(tmp_path / "b.gguf", {"t": zeros["t"] + 1}),
    )
    with ModelFile.open(first) as a, ModelFile.open(second) as b:
        assert compare(a, b).changed[0].relative == np.inf


def pair(*, embedding: bool = False, magnitude: np.ndarray | None = None) -> LoraPair:
    a, b = CHANCE.standard_normal((2, 32)), CHANCE.standard_normal((6, 2))
    if embedding:
        a, b = CHANCE.standard_normal((2, 6)), CHANCE.standard_normal((32, 2))
    return LoraPair(
        a=a.astype(np.float32),
        b=b.astype(np.float32),
        scale=0.5,
        magnitude=magnitude,
        embedding=embedding,
    )


def test_an_adapters_effect_is_that_of_the_dense_change(tmp_path: Path) -> None:
    pairs = {
        "token_embd.weight": pair(embedding=True),
        "blk.0.attn_q.weight": pair(),
        "blk.2.attn_q.weight": pair(magnitude=np.ones(6, np.float32)),
    }
    replaced = {"blk.10.attn_q.weight": np.zeros((6, 32), np.float32)}
    adapter = LoraAdapter(path=tmp_path, pairs=pairs, replaced=replaced)
    path = write(tmp_path / "base.gguf", WEIGHTS, {"general.architecture": "llama"})
    with ModelFile.open(path) as base:
        effects = {effect.name: effect for effect in adapter_effects(base, adapter)}
    assert set(effects) == {*pairs, *replaced}
    for name, one in pairs.items():
        before = WEIGHTS[name].astype(np.float64)
        left, right = (one.a.T, one.b.T) if one.embedding else (one.b, one.a)
        after = before + 0.5 * (left.astype(np.float64) @ right)
        if one.magnitude is not None:
            after *= one.magnitude[:, None] / np.linalg.norm(after, axis=1, keepdims=True)
        wanted = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert effects[name].relative == pytest.approx(wanted, rel=1e-5)
    assert effects["blk.10.attn_q.weight"].relative == pytest.approx(1)
    assert [e.name for e in by_block(effects.values())] == [
        "token_embd.weight", "block 0", "block 2", "block 10",
    ]  # fmt: skip
    modules = {effect.name: effect for effect in by_module(effects.values())}
    together = [effects[f"blk.{block}.attn_q.weight"] for block in (0, 2, 10)]
    assert modules["attn_q"].squared == pytest.approx(sum(effect.squared for effect in together))
