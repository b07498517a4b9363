"""Memory and time of training: exact where it can be, ordered where it must be, one line wide."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from llamune.arch import describe
from llamune.data import filled_length
from llamune.errors import LlamuneError
from llamune.gguf import ModelFile
from llamune.plan import (
    Accelerator,
    Linear,
    Machine,
    Settings,
    Shape,
    Work,
    bytes_of,
    detect,
    largest_micro_batch,
    lora_parameters,
    plan_settings,
    refit,
    shape_of,
    speed_of,
    training_memory,
    training_time,
    verdict,
)
from llamune.plan.memory import LOGITS_CHUNK_BYTES
from llamune.plan.timing import calibrated_speed, padded_tokens, utilisation
from llamune.runs import Line, StepSpeed

GEMMA2_9B = Shape(
    name="gemma2:9b",
    architecture="gemma2",
    n_layer=42,
    d_model=3584,
    n_head=16,
    n_head_kv=8,
    head_dim=256,
    d_ff=14336,
    n_vocab=256000,
    context_length=8192,
    linears=(
        Linear(name="q_proj", rows=4096, columns=3584),
        Linear(name="k_proj", rows=2048, columns=3584),
        Linear(name="v_proj", rows=2048, columns=3584),
        Linear(name="o_proj", rows=3584, columns=4096),
        Linear(name="gate_proj", rows=14336, columns=3584),
        Linear(name="up_proj", rows=14336, columns=3584),
        Linear(name="down_proj", rows=3584, columns=14336),
    ),
    n_norms=4,
    tied=True,
    n_parameters=9_241_705_984,
    file_bytes=5_443_000_000,
    embedding_bytes=752_640_000,
    output_bytes=0,
    file_type="Q4_0",
)
WORK = Work(steps=100, tokens=100_000, mean_length=500)
SMALL = Machine(name="small", memory_bytes=16 << 30, source="a test")


def total(settings: Settings) -> int:
    return training_memory(GEMMA2_9B, settings).total_bytes


def test_adapter_sizes_are_those_of_the_fact_sheet() -> None:
    four = ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert lora_parameters(GEMMA2_9B, Settings(rank=8, targets=four)) == 8_945_664
    assert lora_parameters(GEMMA2_9B, Settings(rank=8, targets=["q_proj", "v_proj"])) == 4_472_832
    assert lora_parameters(GEMMA2_9B, Settings(rank=8)) == 27_009_024
    with_tokens = Settings(rank=8, new_tokens=2)  # one table for embedding and output
    assert lora_parameters(GEMMA2_9B, with_tokens) == 27_009_024 + 2 * 3584
    assert lora_parameters(GEMMA2_9B, Settings(rank=8, targets="attention")) == 8_945_664
    wide = Settings(rank=8, ranks={"q_proj": 16}, targets=["q_proj"])
    assert lora_parameters(GEMMA2_9B, wide) == 42 * 16 * (4096 + 3584)
    dora = Settings(method="dora", rank=8, targets=["v_proj"])
    assert lora_parameters(GEMMA2_9B, dora) == 42 * (8 * (2048 + 3584) + 2048)


def test_peft_counts_the_same_on_the_starter(starter_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    with ModelFile.open(starter_path) as file:
        family = describe(file)
        shape = shape_of(file, family)
    assert shape.n_parameters == 134_515_008
    assert shape.multiplying_parameters == family.multiplying_parameters
    assert shape.n_norms == 2
    small = {**family.config, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**small))
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    trained = sum(value.numel() for value in tuned.parameters() if value.requires_grad)
    assert lora_parameters(replace(shape, n_layer=2), Settings(rank=4)) == trained


def test_full_training_over_dense_weights_takes_what_the_fact_sheet_says() -> None:
    dense_settings = Settings(
        method="full", dense=True, train_embeddings=True, micro_batch=1, length=128
    )
    memory = training_memory(GEMMA2_9B, dense_settings)
    parts = {part.key: part.nbytes for part in memory.parts}
    dense = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert dense == pytest.approx(16 * GEMMA2_9B.n_parameters, rel=0.001)  # 148 GB
    packed = training_memory(GEMMA2_9B, Settings(method="full", micro_batch=1, length=128))
    assert packed.total_bytes < dense / 9


settings_strategy = st.builds(
    Settings,
    method=st.sampled_from(["lora", "dora", "full"]),
    dense=st.booleans(),
    rank=st.integers(1, 256),
    targets=st.sampled_from(["all", "attention", "mlp"]),
    micro_batch=st.integers(1, 16),
    length=st.integers(8, 8192),
    trained_share=st.floats(0.01, 1.0),
    recompute=st.booleans(),
    dropout=st.booleans(),
    compute_type=st.sampled_from(["float32", "bfloat16"]),
    compiled=st.booleans(),
)


@limits(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(settings_strategy)
def test_more_of_anything_never_takes_less(settings: Settings) -> None:
    now = total(settings)
    assert total(replace(settings, micro_batch=settings.micro_batch + 1)) > now
    assert total(replace(settings, length=settings.length + 16)) > now
    assert total(replace(settings, rank=settings.rank + 1)) >= now
    assert total(replace(settings, recompute=True)) <= now
    if not settings.is_packed:  # its f32 is unpacked at once, bf16 by way of it
        in_bf16 = total(replace(settings, compute_type="bfloat16"))
        assert in_bf16 <= now + LOGITS_CHUNK_BYTES // 2  # the gradient of logits is a copy


@limits(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(settings_strategy)
def test_parts_are_named_once_are_positive_and_add_up(settings: Settings) -> None:
    memory = training_memory(GEMMA2_9B, settings, factor=1.25)
    keys = [part.key for part in memory.parts]
    assert len(keys) == len(set(keys))
    assert all(part.nbytes > 0 and part.formula for part in memory.parts)
    assert memory.uncorrected_bytes == sum(part.nbytes for part in memory.parts)
    assert memory.total_bytes == int(memory.uncorrected_bytes * 1.25)


# -- time -------------------------------------------------------------------------------------


def test_operations_are_those_of_the_cost_model() -> None:
    # 42 × 198.2 M + 917.5 M multiply; LoRA four, full six, recomputing two more
    assert GEMMA2_9B.multiplying_parameters == pytest.approx(9.24e9, rel=1e-3)
    for passes, per_weight in [("forward", 2), ("lora", 4), ("full+embeddings", 6)]:
        flops = GEMMA2_9B.flops_per_token(0, passes=passes)
        assert flops == per_weight * GEMMA2_9B.multiplying_parameters
    output = GEMMA2_9B.n_vocab * GEMMA2_9B.d_model
    assert GEMMA2_9B.flops_per_token(0, passes="full") == flops - 2 * output
    again = GEMMA2_9B.flops_per_token(0, passes="lora+recompute")
    assert again == 6 * GEMMA2_9B.multiplying_parameters - 2 * output
    untrained = GEMMA2_9B.flops_per_token(0, passes="lora", trained_share=0.0)
    assert untrained == 4 * (GEMMA2_9B.multiplying_parameters - output)
    short = GEMMA2_9B.flops_per_token(512, passes="lora")
    assert short / GEMMA2_9B.flops_per_token(0, passes="lora") == pytest.approx(1.014, abs=1e-3)


def test_the_claim_of_six_hours_is_checked_by_the_cost_model() -> None:
    # 30,000 samples of 128 tokens on an M1 Max: 9.5 h at 4.16 TFLOPS, not 6 h
    speed = speed_of(SMALL, n_parameters=9_000_000_000, measured=[4160.0])
    work = Work(steps=1, tokens=3_840_000, mean_length=128)
    plan = training_time(GEMMA2_9B, Settings(compiled=False), work, speed)
    assert plan.low / 3600 < 9.5 < plan.high / 3600


def test_few_tokens_at_once_are_forecast_to_train_slower() -> None:
    reached = [
        utilisation("cpu", 135_000_000, tokens_at_once=tokens) for tokens in (128, 512, 2048)
    ]
    assert reached == sorted(reached)
    assert all(0 < low < high < 1 for low, high in reached)


def test_the_interval_narrows_with_what_is_known() -> None:
    machine = replace(SMALL, n_cores=2, instruction_sets=("avx2",))
    widths = []
    for known in ({}, {"gflops": 180.0}, {"measured": [100.0, 104.0, 96.0]}):
        speed = speed_of(machine, n_parameters=9_000_000_000, **known)
        assert 0 < speed.low < speed.high
        widths.append(speed.high / speed.low)
    assert widths == sorted(widths, reverse=True)


@limits(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=200),
    batch=st.integers(1, 16),
    steps=st.integers(1, 60),
    data=st.data(),
)
def test_padding_never_makes_fewer_tokens(
    lengths: list[int], batch: int, steps: int, data: st.DataObject
) -> None:
    micro_batch = data.draw(st.integers(1, batch))
    options = {"steps": steps, "batch": batch, "max_length": 512}
    padded = padded_tokens(lengths, micro_batch=micro_batch, **options)
    assert padded <= steps * batch * filled_length(min(512, max(lengths)))
    assert padded >= steps * batch * min(512, *lengths) * 0.99 - 1


def test_the_first_steps_fit_the_forecast_again() -> None:
    speed = speed_of(SMALL, n_parameters=9_000_000_000, measured=[4160.0])
    planned = training_time(GEMMA2_9B, Settings(), WORK, speed)
    assert refit(planned, share=0.1, steps_done=2, seconds=500.0) is None  # too few steps
    assert refit(planned, share=0.1, steps_done=10, seconds=3.0) is None  # too short
    fitted = refit(planned, share=0.1, steps_done=10, seconds=500.0)
    assert fitted is not None
    assert fitted.low < 5000 < fitted.high < 1.12 * 5000
    done = refit(planned, share=1.0, steps_done=100, seconds=5000.0)
    assert done is not None
    assert done.low == done.high == 5000.0


CALIBRATED = StepSpeed(
    block=Line(start=0.5, each=0.01), rest=Line(start=0.2, each=0.004), length=576, update=1e-9,
    rank=16, compute_type="float32",
)  # fmt: skip


def calibrated_seconds(settings: Settings) -> float:
    """Return the seconds of ten full steps."""
    tokens = settings.tokens
    work = Work(steps=10, tokens=10 * tokens, mean_length=settings.length)
    speed = calibrated_speed(GEMMA2_9B, settings, work, CALIBRATED)
    return training_time(GEMMA2_9B, settings, work, speed).middle


def test_calibrated_steps_give_their_own_time_back() -> None:
    settings = Settings(micro_batch=1, length=576)
    block = 0.5 + 576 * 0.01
    trained = lora_parameters(GEMMA2_9B, settings)
    seconds = 10 * (42 * block + 0.2 + 576 * 0.004 + trained * 1e-9)
    assert calibrated_seconds(settings) == pytest.approx(seconds, rel=0.01)
    again = calibrated_seconds(replace(settings, recompute=True))
    assert 1.4 * seconds < again < 1.55 * seconds


def test_calibrated_steps_know_attention_rank_and_dora() -> None:
    short, long = Settings(micro_batch=4, length=256), Settings(micro_batch=1, length=1024)
    assert calibrated_seconds(long) > 1.01 * calibrated_seconds(short)  # same tokens
    ranks = [calibrated_seconds(replace(long, rank=rank)) for rank in (8, 16, 64)]
    assert ranks == sorted(ranks)
    assert ranks[2] > 1.02 * ranks[1]
    assert calibrated_seconds(replace(long, targets="attention")) < ranks[1]
    assert calibrated_seconds(replace(long, method="dora")) > ranks[1] + 10 * 42 * 0.2


# -- machines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("16GB", 16 << 30), ("16 gib", 16 << 30), ("32", 32 << 30), ("512MB", 512 << 20),
     ("1.5gb", 3 << 29)],
)  # fmt: skip
def test_memory_sizes_are_read(text: str, nbytes: int) -> None:
    assert bytes_of(text) == nbytes


@pytest.mark.parametrize("text", ["", "much", "16XB", "-4GB", "0GB", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(LlamuneError, match="memory size"):
        bytes_of(text)


def test_the_system_keeps_its_share() -> None:
    assert SMALL.budget_bytes == (16 << 30) - int((16 << 30) * 0.15)
    unified = Accelerator(name="M1", kind="mps", memory_bytes=10 << 30)
    assert replace(SMALL, accelerator=unified).budget_bytes == 10 << 30
    assert replace(SMALL, accelerator=unified).place == "unified"
    card = Accelerator(name="RTX", kind="cuda", memory_bytes=24 << 30, free_bytes=20 << 30)
    assert (19 << 30) < replace(SMALL, accelerator=card).budget_bytes < (20 << 30)


def test_this_machine_is_found_without_torch() -> None:
    machine = detect()
    assert machine.is_here
    assert 0 < machine.budget_bytes <= machine.memory_bytes
    assert machine.n_cores >= 1
    assert machine.disk_free_bytes


# -- the whole plan ---------------------------------------------------------------------------


def test_a_plan_that_does_not_fit_says_what_would() -> None:
    wanted = Settings(rank=64, length=4096, micro_batch=4)
    plan = plan_settings(GEMMA2_9B, wanted, WORK, machine=SMALL)
    assert plan.verdict == "no"
    assert not plan.fits
    assert plan.advice
    for sentence in plan.advice:
        assert "of 14.6 GB" in sentence


def test_what_is_advised_does_fit() -> None:
    from llamune.plan.advice import nearest_that_fit

    wanted = Settings(rank=64, length=4096, micro_batch=4)
    plan = plan_settings(GEMMA2_9B, wanted, WORK, machine=SMALL)
    options = nearest_that_fit(plan)
    assert [option.distance for option in options] == sorted(o.distance for o in options)
    for option in options:
        again = plan_settings(GEMMA2_9B, option.settings, WORK, machine=SMALL)
        assert again.verdict == "fits"
        assert again.memory_bytes == option.needed_bytes


def test_the_verdict_has_three_grades() -> None:
    assert [verdict(needed, 100) for needed in (90, 91, 100, 101)] == [
        "fits", "tight", "tight", "no",
    ]  # fmt: skip


def test_the_largest_micro_batch_is_the_last_that_fits() -> None:
    machine = replace(SMALL, memory_bytes=32 << 30)
    settings = Settings(length=512)
    count = largest_micro_batch(GEMMA2_9B, settings, machine, batch=64)
    sizes = [
        training_memory(GEMMA2_9B, replace(settings, micro_batch=n)).total_bytes
        for n in (count, count + 1)
    ]
    assert verdict(sizes[0], machine.budget_bytes) == "fits"
    assert verdict(sizes[1], machine.budget_bytes) != "fits"
    assert largest_micro_batch(GEMMA2_9B, settings, SMALL, batch=1) == 1


def test_processes_share_a_memory_and_a_batch_bounds_what_goes_through_at_once() -> None:
    machine, settings = replace(SMALL, memory_bytes=64 << 30), Settings(length=128)
    alone = largest_micro_batch(GEMMA2_9B, settings, machine, batch=500)
    assert largest_micro_batch(GEMMA2_9B, settings, machine, batch=alone - 1) == alone - 1
    assert 1 <= largest_micro_batch(GEMMA2_9B, settings, machine, batch=500, n_processes=2) < alone


def test_a_large_machine_takes_more_than_a_few_dozen_sequences_at_once() -> None:
    machine = replace(SMALL, memory_bytes=2 << 40)
    assert largest_micro_batch(GEMMA2_9B, Settings(length=128), machine, batch=500) == 500


def test_the_json_has_the_keys_that_are_promised() -> None:
    plan = plan_settings(GEMMA2_9B, Settings(), WORK, machine=SMALL)
    report = plan.as_json()
    assert report["fits"] is plan.fits
    assert report["memory"]["predicted_bytes"] == plan.memory_bytes
    assert {part["key"] for part in report["memory"]["parts"]} >= {"weights", "activations"}
    assert report["time"]["low_seconds"] < report["time"]["predicted_seconds"]


def test_planning_needs_no_torch() -> None:
    import subprocess

    code = "import llamune.plan, llamune.license, llamune.adapter, sys; " \
           "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
