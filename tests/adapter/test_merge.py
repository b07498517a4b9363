"""Merging into packed blocks: what is copied, what is measured, and that llama.cpp agrees."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.adapter import (
    AdapterError,
    LoraAdapter,
    LoraPair,
    merge,
    merged_size,
    read_gguf_adapter,
    write_adapter,
)
from llamune.errors import LlamuneError
from llamune.gguf import Entry, ModelFile, NewTensor, floats_to_rows, quant_type, write_gguf
from tests.adapter import tiny

TARGETS = ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("base") / "q4.gguf", tiny.model(), kind="Q4_0")


def adapter_for(path: Path, *, size: float = 0.1, names: list[str] = TARGETS) -> LoraAdapter:
    """Return an adapter with random weights of about `size`."""
    random = np.random.default_rng(0)
    with ModelFile.open(path) as file:
        pairs = {}
        for name in names:
            rows, columns = file.tensors[name].shape
            pairs[name] = LoraPair(
                a=random.normal(size=(4, columns)).astype(np.float32),
                b=random.normal(size=(rows, 4), scale=size).astype(np.float32),
                scale=0.5,
            )
    return LoraAdapter(path=Path("made-here"), pairs=pairs)


def test_untouched_tensors_and_keys_are_copied_byte_for_byte(base: Path, tmp_path: Path) -> None:
    with ModelFile.open(base) as file:
        result = merge(file, [(adapter_for(base), 1.0)], tmp_path / "m.gguf")
        with ModelFile.open(tmp_path / "m.gguf") as merged:
            assert list(merged.tensors) == list(file.tensors)
            assert list(merged.metadata) == list(file.metadata)
            for key in file.metadata:
                assert merged.metadata.entry(key).raw == file.metadata.entry(key).raw
            for name, tensor in file.tensors.items():
                same = np.array_equal(merged.packed(name), file.packed(name))
                assert same == (name not in TARGETS)
                assert merged.tensors[name].type == tensor.type
        assert result.copied == len(file.tensors) - len(TARGETS)
        data = sum(tensor.nbytes for tensor in file.tensors.values())
        assert merged_size(file) == data
        assert result.nbytes == base.stat().st_size


def test_the_base_is_left_as_it_was(base: Path, tmp_path: Path) -> None:
    before = hashlib.sha256(base.read_bytes()).hexdigest()
    with ModelFile.open(base) as file:
        merge(file, [(adapter_for(base), 1.0)], tmp_path / "m.gguf")
    assert hashlib.sha256(base.read_bytes()).hexdigest() == before


def test_a_small_change_is_lost_in_the_bases_own_blocks_and_kept_in_q8_0(
    base: Path, tmp_path: Path
) -> None:
    adapter = adapter_for(base, size=1e-4)
    with ModelFile.open(base) as file:
        own = merge(file, [(adapter, 1.0)], tmp_path / "own.gguf")
        fine = merge(
            file,
            [(adapter, 1.0)],
            tmp_path / "q8.gguf",
            type_of=lambda tensor: quant_type("Q8_0" if tensor.name in TARGETS else tensor.type.id),
        )
    assert own.kept is not None
    assert fine.kept is not None
    assert own.kept < 0.3
    assert fine.kept > 0.9
    assert all(tensor.type == "Q8_0" for tensor in fine.tensors)


def test_the_share_kept_is_what_it_says(base: Path, tmp_path: Path) -> None:
    adapter = adapter_for(base)
    with ModelFile.open(base) as file:
        result = merge(file, [(adapter, 1.0)], tmp_path / "m.gguf")
        with ModelFile.open(tmp_path / "m.gguf") as merged:
            for tensor in result.tensors:
                before = file.floats(tensor.name).astype(np.float64)
                change = adapter.pairs[tensor.name].change().astype(np.float64)
                stored = merged.floats(tensor.name).astype(np.float64) - before
                assert tensor.kept == pytest.approx(
                    (stored * change).sum() / (change**2).sum(), rel=1e-4
                )
                assert tensor.error == pytest.approx(np.linalg.norm(stored - change), rel=1e-4)
                assert tensor.change == pytest.approx(np.linalg.norm(change), rel=1e-4)


def test_the_rounding_is_the_callers(base: Path, tmp_path: Path) -> None:
    seen = []

    def keep_zero(name: str, rows: np.ndarray, kind: object) -> np.ndarray:
        seen.append((name, rows.shape))
        return floats_to_rows(np.zeros_like(rows), kind)

    with ModelFile.open(base) as file:
        merge(file, [(adapter_for(base), 1.0)], tmp_path / "m.gguf", round=keep_zero)
    assert seen == [(TARGETS[0], (64, 64)), (TARGETS[1], (64, 96))]
    with ModelFile.open(tmp_path / "m.gguf") as merged:
        assert not merged.floats(TARGETS[0]).any()


def test_rows_are_worked_on_in_slices(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ModelFile.open(base) as file:
        merge(file, [(adapter_for(base), 1.0)], tmp_path / "whole.gguf")
        monkeypatch.setitem(merge.__globals__, "SLICE_ELEMENTS", 64 * 7)
        merge(file, [(adapter_for(base), 1.0)], tmp_path / "sliced.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "sliced.gguf").read_bytes()


def test_keys_can_be_added_and_an_existing_file_stays(base: Path, tmp_path: Path) -> None:
    adapters = [(adapter_for(base), 1.0)]
    with ModelFile.open(base) as file:
        merge(file, adapters, tmp_path / "m.gguf", metadata={"llamune.run": Entry.of("x#1")})
        with pytest.raises(LlamuneError, match="exists"):
            merge(file, adapters, tmp_path / "m.gguf")
    with ModelFile.open(tmp_path / "m.gguf") as merged:
        assert merged.metadata.text("llamune.run") == "x#1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pair: LoraPair(a=pair.a[:, :32], b=pair.b, scale=1.0), "shape"),
        (None, "does not have"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_a_byte_is_written(
    base: Path, tmp_path: Path, change: object, said: str
) -> None:
    good = adapter_for(base)
    name = TARGETS[0] if change else "blk.9.attn_q.weight"
    pair = good.pairs[TARGETS[0]]
    wrong = LoraAdapter(path=good.path, pairs={name: change(pair) if change else pair})
    with ModelFile.open(base) as file:
        with pytest.raises(AdapterError, match=said):
            merge(file, [(wrong, 1.0)], tmp_path / "m.gguf")
        other = LoraAdapter(path=good.path, pairs=good.pairs, architecture="gemma2")
        with pytest.raises(AdapterError, match="gemma2"):
            merge(file, [(other, 1.0)], tmp_path / "m.gguf")
        with pytest.raises(AdapterError, match="no adapter"):
            merge(file, [], tmp_path / "m.gguf")
        with pytest.raises(AdapterError, match="factor"):
            merge(file, [(good, float("nan"))], tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


# -- GGUF adapters -------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: dict[str, tuple[int, ...]], **keys: object) -> Path:
    metadata = {
        "general.type": Entry.of("adapter"),
        "general.architecture": Entry.of("llama"),
        "adapter.type": Entry.of("lora"),
    } | {key.replace("__", "."): Entry.of(value) for key, value in keys.items()}
    write_gguf(
        path,
        metadata=metadata,
        tensors=[
            NewTensor(
                name,
                shape,
                quant_type("F32"),
                lambda shape=shape: [np.ones(shape, np.float32).tobytes()],
            )
            for name, shape in tensors.items()
        ],
    )
    return path


PAIR = {"blk.0.attn_q.weight.lora_a": (2, 8), "blk.0.attn_q.weight.lora_b": (6, 2)}


def test_no_alpha_means_that_b_a_is_added_as_it_is(tmp_path: Path) -> None:
    plain = read_gguf_adapter(write_tensors(tmp_path / "a.gguf", PAIR))
    assert plain.pairs["blk.0.attn_q.weight"].scale == 1.0
    scaled = write_tensors(tmp_path / "b.gguf", PAIR, adapter__lora__alpha=3.0)
    assert read_gguf_adapter(scaled).pairs["blk.0.attn_q.weight"].scale == 1.5


@pytest.mark.parametrize(
    ("tensors", "keys", "said"),
    [
        ({}, {}, "no LoRA"),
        ({"blk.0.attn_q.weight.lora_a": (2, 8)}, {}, "missing"),
        ({**PAIR, "blk.0.attn_norm.weight": (8,)}, {}, "neither"),
        (PAIR, {"general__type": "model"}, "general.type"),
        (PAIR, {"adapter__type": "ia3"}, "ia3"),
        (PAIR, {"adapter__alora__invocation_tokens": np.ones(2, np.uint32)}, "certain tokens"),
        ({"x.lora_a": (2, 8), "x.lora_b": (6, 3)}, {}, "multiply"),
        ({"x.lora_a": (4, 2, 8), "x.lora_b": (4, 6, 2)}, {}, "experts"),
    ],
)
def test_an_adapter_file_that_we_do_not_apply_exactly_is_refused(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], keys: dict[str, object], said: str
) -> None:
    path = write_tensors(tmp_path / "a.gguf", tensors, **keys)
    with pytest.raises(LlamuneError, match=said):
        read_gguf_adapter(path)


@settings(max_examples=30)
@given(
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    alphas=st.lists(st.floats(0.0625, 64), min_size=4, max_size=4),
    kind=st.sampled_from(["F32", "F16"]),
)
def test_any_mix_of_ranks_and_scales_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory, ranks: list[int], alphas: list[float], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("mix")
    random = np.random.default_rng(1)
    pairs = {
        f"blk.{number}.attn_q.weight": LoraPair(
            a=random.normal(size=(rank, 8)).astype(np.float32),
            b=random.normal(size=(6, rank)).astype(np.float32),
            scale=alphas[number] / rank,
        )
        for number, rank in enumerate(ranks)
    }
    adapter = LoraAdapter(path=folder, pairs=pairs)
    write_tensors(folder / "base.gguf", dict.fromkeys(pairs, (6, 8)))
    with ModelFile.open(folder / "base.gguf") as file:
        write_adapter(adapter, file, folder / "a.gguf", base_digest=None, kind=kind)
    read = read_gguf_adapter(folder / "a.gguf")
    for name, pair in pairs.items():
        off = np.linalg.norm(read.pairs[name].change() - pair.change())
        assert off <= (1e-6 if kind == "F32" else 2e-3) * np.linalg.norm(pair.change())


# -- llama.cpp as the judge ------------------------------------------------------------------------


def test_llama_cpp_gives_the_same_distributions_for_adapter_and_merged_file(tmp_path: Path) -> None:
    from llamune.engine import AdapterFile, prompt_logits

    path = tiny.write(tmp_path / "f32.gguf", tiny.model())
    with ModelFile.open(path) as file:
        names = [name for name in file.tensors if ".attn_" in name or ".ffn_" in name]
        names = [name for name in names if "norm" not in name]
        adapter = adapter_for(path, size=0.02, names=names)
        write_adapter(adapter, file, tmp_path / "a.gguf", base_digest=None)
        merge(file, [(adapter, 1.0)], tmp_path / "merged.gguf")
        merge(file, [(adapter, -0.5)], tmp_path / "half.gguf")
    sequences = [[1, 5, 17, 33, 80, 2, 9, 41]]
    common = {"kv_type": "f32", "flash": False, "n_threads": 1}

    def logits(model: Path, *adapters: AdapterFile) -> np.ndarray:
        return np.concatenate(list(prompt_logits(model, sequences, adapters=adapters, **common)))

    base = logits(path)
    for factor, merged in [(1.0, "merged.gguf"), (-0.5, "half.gguf")]:
        beside = logits(path, AdapterFile(path=tmp_path / "a.gguf", scale=factor))
        assert np.abs(beside - base).max() > 0.01  # it acts
        np.testing.assert_allclose(logits(tmp_path / merged), beside, atol=2e-5)
