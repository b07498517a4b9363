"""Quantized files: every tensor's bytes as another build of ggml packs them, sizes to the byte."""

from __future__ import annotations

import re
import shutil
import time
import tracemalloc
from pathlib import Path

import libgguf
import numpy as np
import pytest

from llamune.convert import (
    FILE_TYPES,
    Importance,
    TypeOptions,
    file_type,
    plan_quantize,
    predict_size,
    quantize,
    section_bytes,
    slabs,
)
from llamune.errors import LlamuneError
from llamune.gguf import (
    Entry,
    ModelFile,
    NewTensor,
    QuantType,
    floats_to_rows,
    quant_type,
    write_gguf,
)

from .models import llama, tensor

WRITTEN = [name for name in FILE_TYPES if name not in {"NVFP4", "Q2_0"}]
SLOW_TABLES = ("IQ1", "IQ2", "IQ3")  # ggml works out their grids for seconds, once a process
SIBLINGS = {"Q3_K_S", "Q3_K_L", "Q4_K_S", "Q5_K_S"}  # the types of Q3_K_M, …, on other tensors


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory):
    with ModelFile.open(llama(tmp_path_factory.mktemp("source") / "tiny.gguf")) as file:
        yield file


def importance(file: ModelFile, *, without: str = "token_embd") -> Importance:
    chance = np.random.default_rng(5)
    weights = {
        name: chance.uniform(0.1, 3, (1, info.n_columns)).astype(np.float32)
        for name, info in file.tensors.items()
        if without not in name
    }
    return Importance(Path("some/imatrix.gguf"), weights, ("text.txt", "more.txt"), 7)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.slow] if name.startswith(SLOW_TABLES) or name in SIBLINGS else [],
        )
        for name in WRITTEN
    ],
)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_bytes_are_the_judges(source: ModelFile, tmp_path: Path, name: str, weighted: bool) -> None:
    matrix = importance(source) if weighted else None
    plan = plan_quantize(source, file_type(name), importance=matrix)
    out = tmp_path / "new.gguf"
    if plan.needs_importance:
        assert not weighted
        with pytest.raises(LlamuneError, match="needs an importance matrix"):
            quantize(plan, out)
        return
    quantize(plan, out, threads=1)
    assert out.stat().st_size == plan.nbytes == sum(section_bytes(plan).values())
    with ModelFile.open(out) as new:
        assert new.metadata["general.file_type"] == FILE_TYPES[name].id
        assert new.metadata["general.quantization_version"] == 2
        for tensor_name, kind in plan.types.items():
            assert new.tensors[tensor_name].type == kind
            floats = source.floats(tensor_name)
            columns = None if matrix is None else matrix.weights.get(tensor_name)
            if kind.name == "F32":
                wanted = floats
            else:
                wanted = libgguf.quantize_rows(
                    floats, kind.id, None if columns is None else columns[0]
                )
            assert new.packed(tensor_name).tobytes() == np.ascontiguousarray(wanted).tobytes()


def test_untouched_metadata_is_byte_identical(source: ModelFile, tmp_path: Path) -> None:
    out = tmp_path / "new.gguf"
    quantize(plan_quantize(source, file_type("q8_0"), importance=importance(source)), out)
    with ModelFile.open(out) as new:
        added = {key: new.metadata[key] for key in new.metadata if key not in source.metadata}
        assert added == {
            "general.quantization_version": 2,
            "quantize.imatrix.file": "imatrix.gguf",
            "quantize.imatrix.dataset": "text.txt",
            "quantize.imatrix.entries_count": 38,
            "quantize.imatrix.chunks_count": 7,
        }
        for key in source.metadata:
            if key != "general.file_type":
                assert new.metadata.entry(key) == source.metadata.entry(key)


def test_threads_change_nothing(tmp_path: Path) -> None:
    path = llama(tmp_path / "wide.gguf", n_layer=1, width=1024)
    with ModelFile.open(path) as file:
        plan = plan_quantize(file, file_type("q4_k_m"))
        for threads in (1, 3):
            quantize(plan, tmp_path / f"{threads}.gguf", threads=threads)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()


def test_a_split_model_becomes_one_file(tmp_path: Path) -> None:
    for number, name in enumerate(("blk.0.ffn_up.weight", "blk.1.ffn_up.weight")):
        metadata = {
            "general.architecture": Entry.of("llama"),
            "llama.block_count": Entry.of(2),
            "split.no": Entry.of(number),
            "split.count": Entry.of(2),
            "split.tensors.count": Entry.of(2),
        }
        path = tmp_path / f"m-{number + 1:05d}-of-00002.gguf"
        write_gguf(path, metadata=metadata, tensors=[tensor(name, (4, 256))])
    with ModelFile.open(tmp_path / "m-00001-of-00002.gguf") as file:
        quantize(plan_quantize(file, None), tmp_path / "one.gguf")
        with ModelFile.open(tmp_path / "one.gguf") as one:
            assert not any("split" in key for key in one.metadata)
            assert list(one.tensors) == list(file.tensors)
            for name in file.tensors:
                assert np.array_equal(one.packed(name), file.packed(name))


def test_stacked_experts_each_use_their_own_importance(tmp_path: Path) -> None:
    path = tmp_path / "experts.gguf"
    metadata = {
        "general.architecture": Entry.of("llama"),
        "llama.block_count": Entry.of(1),
        "llama.expert_count": Entry.of(3),
    }
    name = "blk.0.ffn_up_exps.weight"
    write_gguf(path, metadata=metadata, tensors=[tensor(name, (3, 5, 256))])
    weights = np.random.default_rng(0).uniform(0.1, 9, (3, 256)).astype(np.float32)
    with ModelFile.open(path) as file:
        matrix = Importance(Path("m"), {name: weights})
        plan = plan_quantize(file, file_type("iq3_s"), importance=matrix)
        quantize(plan, tmp_path / "new.gguf")
        floats = file.floats(name)
        with ModelFile.open(tmp_path / "new.gguf") as new:
            for expert in range(3):
                rows = slice(5 * expert, 5 * expert + 5)
                wanted = libgguf.quantize_rows(floats[rows], plan.types[name].id, weights[expert])
                assert np.array_equal(new.packed(name)[rows], wanted)


def test_quantized_sources_are_refused_with_the_measured_error(tmp_path: Path) -> None:
    path = llama(tmp_path / "q8.gguf", kind="Q8_0")
    out = tmp_path / "new.gguf"
    with ModelFile.open(path) as file:
        plan = plan_quantize(file, file_type("q4_0"))
        with pytest.raises(LlamuneError, match=r"quantized already \(Q8_0\).* error of \d+\.\d %"):
            quantize(plan, out)
        assert not out.exists()
        errors = quantize(plan, out, requantize=True, measure=True)
        assert {error.name for error in errors} == set(plan.changed)
        with ModelFile.open(out) as new:
            for error in errors:
                before, after = file.floats(error.name), new.floats(error.name)
                wanted = np.linalg.norm(after - before) / np.linalg.norm(before)
                assert error.relative == pytest.approx(wanted, rel=1e-4)


def test_what_the_person_decides_counts(source: ModelFile) -> None:
    def types(**options: object) -> dict[str, str]:
        plan = plan_quantize(source, file_type("q4_k_m"), options=TypeOptions(**options))
        return {name: kind.name for name, kind in plan.types.items()}

    usual = types()
    assert usual["output.weight"] == "Q6_K"
    assert usual["token_embd.weight"] == "Q4_K"
    assert types(output=quant_type("F16"))["output.weight"] == "F16"
    assert types(embedding=quant_type("Q8_0"))["token_embd.weight"] == "Q8_0"
    pure = types(pure=True)
    assert {kind for name, kind in pure.items() if "norm" not in name} == {"Q4_K"}
    patterns = (
        (re.compile(r"blk\.[01]\.ffn"), quant_type("Q5_0")),
        (re.compile("ffn"), quant_type("BF16")),
    )
    chosen = types(tensors=patterns)
    assert chosen["blk.0.ffn_up.weight"] == "Q5_0"
    assert chosen["blk.2.ffn_up.weight"] == "BF16"
    assert chosen["blk.2.attn_q.weight"] == "Q4_K"


@pytest.mark.parametrize("recipe", [None, "bf16"])
def test_what_the_person_decides_counts_where_nothing_is_rounded(
    source: ModelFile, recipe: str | None
) -> None:
    ffn = ((re.compile("ffn_(up|norm)"), quant_type("Q5_0")),)
    options = TypeOptions(output=quant_type("Q8_0"), tensors=ffn)
    wanted = None if recipe is None else file_type(recipe)
    usual = plan_quantize(source, wanted).types
    plan = plan_quantize(source, wanted, options=options)
    assert plan.metadata["general.quantization_version"] == Entry.of(2)
    asked = {name: kind.name for name, kind in plan.types.items() if kind != usual[name]}
    assert asked.pop("output.weight") == "Q8_0"
    assert asked == {name: "Q5_0" for name in usual if name.endswith("ffn_up.weight")}


def test_a_type_that_does_not_fit_is_refused_and_fallbacks_are_taken(tmp_path: Path) -> None:
    with ModelFile.open(llama(tmp_path / "odd.gguf", width=160, n_head=5)) as file:
        plan = plan_quantize(file, file_type("q4_k_s"))
        assert plan.types["blk.3.attn_q.weight"].name == "Q5_0"
        assert plan.types["output.weight"].name == "Q8_0"
        assert predict_size(file, file_type("q6_k")).nbytes
        with pytest.raises(LlamuneError, match="no type stands in"):
            plan_quantize(file, file_type("q1_0"))
        with pytest.raises(LlamuneError, match="blocks of 256"):
            plan_quantize(file, file_type("q4_0"), options=TypeOptions(output=quant_type("Q6_K")))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "nan.gguf"
    floats = np.zeros((2, 256), np.float32)
    floats[1, 7] = np.nan
    metadata = {"general.architecture": Entry.of("llama"), "llama.block_count": Entry.of(1)}
    new = NewTensor("blk.0.ffn_up.weight", (2, 256), quant_type("F32"), lambda: [floats])
    write_gguf(path, metadata=metadata, tensors=[new])
    words = r"ffn_up\.weight' holds weights that are no numbers"
    with ModelFile.open(path) as file, pytest.raises(LlamuneError, match=words):
        quantize(plan_quantize(file, file_type("q8_0")), tmp_path / "out.gguf")
    assert sorted(tmp_path.iterdir()) == [path]


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    path = llama(tmp_path / "in.gguf", n_layer=1)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    before = path.read_bytes()
    with ModelFile.open(path) as file:
        plan = plan_quantize(file, file_type("q8_0"))
        for out in (path, link):
            with pytest.raises(LlamuneError, match="is the model itself"):
                quantize(plan, out, replace=True)
    assert path.read_bytes() == before


def test_a_stop_leaves_nothing(source: ModelFile, tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(plan_quantize(source, file_type("q8_0")), tmp_path / "out.gguf", advance=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before(
    source: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_quantize(source, file_type("q8_0"))
    usage = shutil.disk_usage(tmp_path)._replace(free=plan.nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LlamuneError, match="free"):
        quantize(plan, tmp_path / "deep" / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    rows = 40_000
    zeros = np.zeros((1000, 1024), np.float16)
    big = NewTensor(
        "blk.0.ffn_up.weight", (rows, 1024), quant_type("F16"), lambda: [zeros] * (rows // 1000)
    )
    metadata = {"general.architecture": Entry.of("llama"), "llama.block_count": Entry.of(1)}
    write_gguf(path, metadata=metadata, tensors=[big])
    with ModelFile.open(path) as file:
        plan = plan_quantize(file, file_type("q4_0"))
        tracemalloc.start()
        quantize(plan, tmp_path / "out.gguf", threads=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20 < rows * 1024 * 4


def test_unknown_file_types_are_refused() -> None:
    assert file_type("q4_k").name == "Q4_K_M"
    with pytest.raises(LlamuneError, match="'q4_k_x' is not known"):
        file_type("q4_k_x")


# -- the work on all cores ------------------------------------------------------------


def test_a_rounding_of_ones_own_sees_the_slices_of_a_tensor_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slabs, "SLAB_ELEMENTS", 256 * 16)
    path = llama(tmp_path / "tiny.gguf", n_layer=1)
    seen: dict[str, list[np.ndarray]] = {}

    def spy(name: str, rows: np.ndarray, kind: QuantType) -> np.ndarray:
        seen.setdefault(name, []).append(rows.copy())
        return floats_to_rows(rows, kind)

    with ModelFile.open(path) as file:
        plan = plan_quantize(file, file_type("q8_0"))
        quantize(plan, tmp_path / "own.gguf", round=spy, threads=4)
        quantize(plan, tmp_path / "plain.gguf", threads=4)
        assert max(len(slices) for slices in seen.values()) > 1
        for name, slices in seen.items():
            assert np.array_equal(np.concatenate(slices), file.floats(name))
    assert (tmp_path / "own.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()


def test_results_come_in_order_and_only_a_few_are_ahead() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.001 * (item % 3))  # later ones may be done first
        return item * item

    results = slabs.in_order(work, range(50), threads=3)
    assert next(results) == 0
    assert len(begun) <= 3 + slabs.SLABS_AHEAD + 1
    assert list(results) == [item * item for item in range(1, 50)]


def test_a_closed_iterator_begins_nothing_more_and_an_error_reaches_the_caller() -> None:
    begun: list[int] = []
    results = slabs.in_order(begun.append, range(1000), threads=2)
    next(results)
    results.close()
    n_begun = len(begun)
    assert n_begun < 10
    with pytest.raises(ZeroDivisionError):
        list(slabs.in_order(lambda item: 1 // item, range(-3, 3), threads=2))
    assert len(begun) == n_begun
