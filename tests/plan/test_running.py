"""Memory of a loaded model, published sizes, devices, prices and advice."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from llamune.arch import describe
from llamune.convert import file_type, predict_size
from llamune.errors import LlamuneError
from llamune.gguf import ModelFile
from llamune.plan import (
    MERGE_TYPES,
    PastRun,
    Settings,
    Work,
    cache_bytes,
    cloud_costs,
    compute_bytes,
    device_machine,
    disk_bytes,
    electricity,
    known_models,
    machine_of_memory,
    plan_settings,
    power_cost,
    profiles,
    published_shape,
    recommend,
    running_memory,
    shape_of,
    tokens_per_second,
)
from llamune.store import home

# what the makers' own cards say
PARAMETERS = {
    "gemma2:9b": 9_241_705_984,
    "qwen2.5:0.5b": 494_032_768,
    "qwen2.5:7b": 7_615_616_512,
    "llama3.1:8b": 8_030_261_248,
    "llama3.2:1b": 1_235_814_400,
    "llama3.2:3b": 3_212_749_824,
    "phi3.5:3.8b": 3_821_079_552,
    "gemma3:1b": 999_885_952,
    "smollm2:135m": 134_515_008,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_sizes_give_the_published_number_of_parameters(name: str) -> None:
    assert published_shape(name).n_parameters == PARAMETERS[name]


def test_published_sizes_give_the_file_of_the_fact_sheet() -> None:
    tokenizer = 256_000 * 24
    assert published_shape("gemma2:9b").file_bytes - tokenizer == 5_437_085_696
    for kind, gigabytes in [("Q4_K_M", 5.755), ("Q8_0", 9.82), ("F16", 18.48), ("F32", 36.97)]:
        shape = published_shape("gemma2:9b", kind=kind)
        assert (shape.file_bytes - tokenizer) / 1e9 == pytest.approx(gigabytes, abs=0.006)


def test_a_published_model_is_planned_like_its_file(starter_path: Path) -> None:
    with ModelFile.open(starter_path) as file:
        own = shape_of(file, describe(file))
        size = predict_size(file, file_type("F16")).nbytes
    published = published_shape("smollm2:135m")
    for field in ("n_layer", "d_model", "n_head_kv", "d_ff", "n_vocab", "tied", "n_norms",
                  "n_parameters", "multiplying_parameters"):  # fmt: skip
        assert getattr(own, field) == getattr(published, field), field
    assert set(own.linears) == set(published.linears)
    assert published.file_bytes == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize("name", known_models())
def test_every_published_model_is_whole(name: str) -> None:
    shape = published_shape(name)
    assert shape.n_head % shape.n_head_kv == 0
    assert 0 <= shape.n_window_layers <= shape.n_layer
    assert bool(shape.sliding_window) == bool(shape.n_window_layers)
    assert 3 < 8 * shape.file_bytes / shape.n_parameters < 17


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LlamuneError, match="nonesuch") as caught:
        published_shape("nonesuch:1b")
    assert "gemma2:9b" in str(caught.value.hint)


# -- cache and compute buffer ---------------------------------------------------------------------


def test_the_cache_of_gemma2_is_the_fact_sheets() -> None:
    shape = published_shape("gemma2:9b")
    assert cache_bytes(shape, context=4096)[0] == 344_064 * 4096  # 1.31 GiB
    # 8192: full layers all cells, windowed ones 4096 + a micro-batch: 2.05 GiB
    assert cache_bytes(shape, context=8192)[0] / 2**30 == pytest.approx(2.05, abs=0.01)
    half = cache_bytes(shape, context=4096, cache_type="q8_0")[0]
    assert half / cache_bytes(shape, context=4096)[0] == pytest.approx(34 / 64)


def reported(path: Path, n_ctx: int) -> dict[str, float]:
    """Return the buffers in MiB that llama.cpp itself reports for a context of this size."""
    from llamune.engine import native
    from llamune.engine.logits import NativeModel

    lines: list[str] = []
    log = native.LogCallback(
        lambda _level, text, _data: lines.append(text.decode(errors="replace"))
    )
    library = native.library()
    with NativeModel(path, n_gpu_layers=0) as model:
        library.llama_log_set(log, None)
        try:
            options = library.llama_context_default_params()
            options.n_ctx = n_ctx
            context = library.llama_init_from_model(ctypes.c_void_p(model._model), options)
            library.llama_free(ctypes.c_void_p(context))
        finally:
            library.llama_log_set(native.SILENT, None)
    found = re.findall(r"CPU (KV|compute) buffer size = +([\d.]+) MiB", "".join(lines))
    return {name: float(size) for name, size in found}


@pytest.mark.parametrize("n_ctx", [512, 2048, 8192])
def test_llama_cpps_own_buffers_are_within_two_percent(starter_path: Path, n_ctx: int) -> None:
    with ModelFile.open(starter_path) as file:
        shape = shape_of(file, describe(file))
    own = reported(starter_path, n_ctx)
    assert cache_bytes(shape, context=n_ctx)[0] / 2**20 == pytest.approx(own["KV"], rel=0.02)
    assert compute_bytes(shape, context=n_ctx)[0] / 2**20 == pytest.approx(own["compute"], rel=0.02)


def test_running_memory_adds_up_and_says_where() -> None:
    memory = running_memory(published_shape("gemma2:9b"), context=4096, place="GPU")
    assert {part.key for part in memory.parts} == {"weights", "cache", "compute", "program"}
    assert {part.place for part in memory.parts} == {"GPU"}
    more = running_memory(published_shape("gemma2:9b"), context=4096, n_parallel=4)
    assert more.total_bytes > memory.total_bytes + 3 * 344_064 * 4096


# -- devices and prices -----------------------------------------------------------------------


def test_a_described_machine_has_its_devices_figures() -> None:
    mac = device_machine("M1 Max 32GB")
    assert mac.memory_bytes == 32 << 30
    assert mac.device == "mps"
    assert 20 << 30 < mac.budget_bytes < 24 << 30  # the GPU's share by default
    assert mac.bandwidth == 400e9
    assert "2026" in mac.source
    for text in ("RTX 4090", "nvidia rtx 4090", "4090"):
        card = device_machine(text)
        assert card.accelerator is not None
        assert card.accelerator.memory_bytes == 24 << 30
        assert card.place == "GPU"
    assert device_machine("A100 80GB").accelerator.memory_bytes == 80 << 30
    with pytest.raises(LlamuneError, match="Abacus"):
        device_machine("Abacus 3")


def test_a_person_adds_devices_and_prices() -> None:
    (home() / "devices").mkdir(parents=True)
    own = '[[devices]]\nname = "Box"\nkind = "cuda"\ntflops = 10.0\nbandwidth_gb_s = 100\n'
    (home() / "devices/own.toml").write_text(own + "memory_gib = 8\n")
    (home() / "prices.toml").write_text(
        'date = 2026-11-24\n[electricity]\ncurrency = "EUR"\nper_kwh = 0.3\n'
        '[[cloud]]\nname = "shed"\ndevice = "Box"\nusd_per_hour = 0.01\n'
    )
    assert device_machine("Box").peak_gflops == 10_000
    assert electricity().currency == "EUR"
    (home() / "devices/own.toml").write_text(own)
    with pytest.raises(LlamuneError, match="memory_gib"):
        profiles()
    (home() / "devices/own.toml").write_text("[[")
    with pytest.raises(LlamuneError, match="not a TOML file"):
        profiles()


def test_the_claim_of_1500_yen_is_checked() -> None:
    # 48 h at the M1 Max's 115 W are 5.5 kWh: 171 yen, not 1,500
    mac = device_machine("M1 Max 32GB")
    shape = published_shape("gemma2:9b")
    work = Work(steps=1, tokens=15_400_000, mean_length=512)
    plan = plan_settings(shape, Settings(micro_batch=1, recompute=True), work, machine=mac)
    assert 30 < plan.time.low / 3600 < 57 < plan.time.high / 3600 < 110
    cost = power_cost(mac, plan.time)
    assert cost.currency == "JPY"
    hours = plan.time.total_low / 3600
    assert cost.low == pytest.approx(hours * 0.115 * 31)
    assert cost.low < 300


def test_clouds_that_cannot_hold_the_model_are_not_named() -> None:
    shape = published_shape("qwen2.5:32b")
    work = Work(steps=1, tokens=1_000_000, mean_length=256)
    machine = machine_of_memory(64 << 30)
    plan = plan_settings(shape, Settings(), work, machine=machine)
    costs = cloud_costs(shape, plan.settings, plan.time)
    assert costs
    assert all(cost.price.device != "T4" for cost in costs)
    assert [cost.usd_high for cost in costs] == sorted(cost.usd_high for cost in costs)


def test_advice_follows_purpose_data_and_type() -> None:
    shape = published_shape("gemma2:9b")
    assert recommend(shape).rank == 16
    assert recommend(shape, n_records=100).rank == 8
    assert recommend(shape, purpose="domain").rank == 32
    assert recommend(shape, purpose="language").method == "full packed"
    assert recommend(shape).store == "adapter"
    assert recommend(published_shape("gemma2:9b", kind="Q8_0")).store == "merged"
    flood = recommend(shape, n_records=1_000_000, n_tokens=10**9)
    assert flood.rank > 32


def past(number: int, *, rank: int, loss: float, seconds: float, data: str = "a") -> PastRun:
    return PastRun(
        name=f"m:latest#{number}",
        kind="lora",
        rank=rank,
        fingerprint=data,
        loss_before=3.0,
        loss=loss,
        scores=(("exact match", 0.2, 0.7),),
        seconds=seconds,
        tokens_per_second=100.0,
    )


def test_what_runs_measured_goes_before_the_rules() -> None:
    shape = published_shape("gemma2:9b")
    runs = [
        past(3, rank=4, loss=2.2, seconds=50),
        past(2, rank=64, loss=2.19, seconds=90),  # within one per cent, and slower
        past(1, rank=8, loss=2.5, seconds=10),
        past(0, rank=256, loss=1.0, seconds=10, data="other"),
    ]
    advised = recommend(shape, past=runs)
    assert (advised.method, advised.rank) == ("lora", 4)
    assert "m:latest#3" in advised.reasons[0]
    assert "exact match 0.2 to 0.7, 100 tokens/s" in advised.reasons[0]
    assert "best of 3 runs" in advised.reasons[0]


def test_the_type_to_merge_into_is_the_finest_that_runs_here() -> None:
    shape = published_shape("gemma2:9b")
    sizes = {kind: published_shape("gemma2:9b", kind=kind).file_bytes for kind in MERGE_TYPES}
    chosen = [
        recommend(shape, sizes=sizes, running_bytes=2 << 30, budget_bytes=size << 30).merge_type
        for size in (16, 12, 10, 6)
    ]
    assert chosen == ["Q8_0", "Q6_K", "Q5_K_M", "Q4_0"]


def test_a_name_without_a_tag_is_the_latest() -> None:
    assert published_shape("phi3.5").name == "phi3.5:3.8b"
    assert published_shape("gemma2:latest").name == "gemma2:9b"


def test_disk_and_bandwidth() -> None:
    shape = published_shape("gemma2:9b")
    sizes = {"Q8_0": published_shape("gemma2:9b", kind="Q8_0").file_bytes}
    disk = disk_bytes(shape, Settings(rank=8), n_variants=5, sizes=sizes)
    assert disk["adapter"] == 2 * 4 * 27_009_024
    assert disk["variants as files"] == 5 * shape.file_bytes
    assert disk["merged"] < disk["merged Q8_0"]
    assert tokens_per_second(shape, 400e9) == pytest.approx(400e9 / shape.file_bytes)
