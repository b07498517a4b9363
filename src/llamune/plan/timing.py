"""How long training takes: operations over speed, as an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llamune.data import filled_length
from llamune.plan.full import trained_parameters
from llamune.plan.machines import Machine
from llamune.plan.settings import Settings, lora_parameters
from llamune.plan.shape import PASSES, Shape
from llamune.runs import StepSpeed

__all__ = [
    "Speed",
    "TimePlan",
    "Work",
    "calibrated_speed",
    "padded_tokens",
    "speed_of",
    "training_flops",
    "training_time",
    "utilisation",
]

# share of the speed of plain matrix products that a training step reaches, low and high
UTILISATION = {"cpu": (0.45, 0.70), "mps": (0.25, 0.45), "cuda": (0.20, 0.50)}
# tokens in whose time a pass through the model starts its layers and unpacks their weights: most
# LoRA steps that `benchmarks/plan.py` measures on 100 million parameters lie between the two
STARTING_TOKENS = {"cpu": (400, 150)}
SMALL_PARAMETERS = 500_000_000  # below, a GPU waits for its launches
SMALL_UTILISATION = (0.05, 0.15)
UNMEASURED_CPU_FLOPS_PER_CYCLE = {"avx512f": 32, "avx2": 16, "asimd": 8}  # f32, a core, sustained
GUESSED_HERTZ = 2.5e9
USUAL_CORES = 8  # of a machine of which only the memory is known
MEASURED_SPREAD = 0.10  # how far one run's speed is from another's on the same machine
WINDOW = 16  # batches whose records are sorted by length together, as `train` does
COMPILE_SECONDS = (5.0, 40.0)  # once a run, where unpacking is compiled
ALL_LAYERS = Settings()
# operations of attention take so many times as long as those of matrix products; on two cores in
# f32, of 512 to 2,048 tokens and heads of 64 and 128, it was 1.7 to 3.1
ATTENTION_COST = 2.0
RECOMPUTED_STARTS = 1.5  # weights are unpacked forward, backward, and then once more
# measured by `benchmarks/plan.py`: a compiled block beside a plain one, and moving a packed weight,
# rounding included, beside AdamW's step of a number of an adapter
COMPILED_SHARE = 0.75
PACKED_UPDATES = {"factored": 0.5, "adamw8": 2.0}
STEP_SECONDS = 0.02  # of an optimizer step, beside its arithmetic
CALIBRATED_SPREAD = 0.15  # how far a run is from the calibration's forecast
PREPARING_SECONDS = 10.0  # libraries, opening the model, the base's checksum
TOKENS_PREPARED_PER_SECOND = 100_000.0  # read, checked, rendered and counted


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Operations a second that training reaches.

    Args:
        low: 10^9 operations a second, at worst.
        high: at best.
        source: where that comes from, in words.
    """

    low: float
    high: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be trained on.

    Args:
        steps: optimizer steps.
        tokens: of all steps together, padding included.
        mean_length: tokens of a sequence.
        micro_batches: passes through the model in all; 0: as many as full ones hold the tokens.
        validation_tokens: of one validation pass.
        evaluations: validation passes.
        tokens_read: of all records, rendered before the first step.
    """

    steps: int
    tokens: int
    mean_length: float
    micro_batches: int = 0
    validation_tokens: int = 0
    evaluations: int = 0
    tokens_read: int = 0


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """Predicted wall-clock time.

    Args:
        low: seconds that the optimizer steps take at best.
        high: at worst.
        around_low: seconds at best for what comes before, between and after: compiling,
            validation passes.
        around_high: at worst.
        flops: floating-point operations of the steps.
        tokens: trained on, padding included.
        speed: what was reckoned with.
    """

    low: float
    high: float
    around_low: float
    around_high: float
    flops: float
    tokens: int
    speed: Speed

    @property
    def total_low(self) -> float:
        """Seconds in all, at best."""
        return self.low + self.around_low

    @property
    def total_high(self) -> float:
        """Seconds in all, at worst."""
        return self.high + self.around_high

    @property
    def middle(self) -> float:
        """Seconds of the steps, in the middle of the interval."""
        return math.sqrt(self.low * self.high)

    @property
    def tokens_per_second(self) -> float:
        """Speed in the middle of the interval."""
        return self.tokens / self.middle if self.middle else 0.0


def padded_tokens(
    lengths: Sequence[int],
    *,
    steps: int,
    batch: int,
    micro_batch: int,
    max_length: int,
    packing: bool = False,
) -> int:
    """Return the tokens of all steps, padding included, as `train` will lay them out.

    Args:
        lengths: tokens of each training record.
        steps: optimizer steps.
        batch: records a step.
        micro_batch: records that go through the model at once.
        max_length: longer records are cut.
        packing: records stand end to end in rows, whose filling, some 2 %, is left out.
    """
    sizes = np.minimum(np.asarray(lengths), max_length)
    if packing:
        return int(steps * batch * sizes.mean())
    random = np.random.default_rng(0)
    n_passes = math.ceil(min(steps, 50 * WINDOW) * batch / len(sizes))
    stream = np.concatenate([random.permutation(sizes) for _ in range(n_passes)])
    rows: list[int] = []
    for start in range(0, len(stream), WINDOW * batch):
        part = np.sort(stream[start : start + WINDOW * batch])
        part = part[: len(part) // micro_batch * micro_batch]
        rows.extend(part.reshape(-1, micro_batch).max(axis=1, initial=0).tolist())
    filled = [filled_length(longest) for longest in rows or [int(sizes.max())]]
    return int(sum(filled) / len(filled) * steps * batch)


def training_time(shape: Shape, settings: Settings, work: Work, speed: Speed) -> TimePlan:
    """Return how long the work takes.

    Args:
        shape: the model.
        settings: the choices.
        work: steps and tokens.
        speed: operations a second.
    """
    flops = training_flops(shape, settings, work)
    # one pass before the first step tells where it starts from
    passes = work.evaluations + 1 if work.validation_tokens else 0
    around = passes * work.validation_tokens * shape.flops_per_token(work.mean_length)
    before = PREPARING_SECONDS + work.tokens_read / TOKENS_PREPARED_PER_SECOND
    compiling = COMPILE_SECONDS if settings.compiled else (0.0, 0.0)
    fastest, slowest = speed.high * 1e9, speed.low * 1e9
    return TimePlan(
        low=flops / fastest + work.steps * STEP_SECONDS,
        high=flops / slowest + work.steps * STEP_SECONDS,
        around_low=around / fastest + before + compiling[0],
        around_high=around / slowest + 2 * before + compiling[1],
        flops=flops,
        tokens=work.tokens,
        speed=speed,
    )


def training_flops(shape: Shape, settings: Settings, work: Work) -> float:
    """Return the floating-point operations of all steps."""
    return work.tokens * shape.flops_per_token(
        work.mean_length, passes=settings.passes, trained_share=settings.trained_share
    )


def calibrated_speed(shape: Shape, settings: Settings, work: Work, steps: StepSpeed) -> Speed:
    """Return the speed that the calibration's steps give for this work.

    Args:
        shape: the model.
        settings: the choices.
        work: steps and tokens.
        steps: what `plan --calibrate` or the first long `tune` measured.
    """
    length = min(work.mean_length, settings.length)
    mean_tokens = settings.micro_batch * length
    n_micro = work.micro_batches or max(work.steps, round(work.tokens / max(1.0, mean_tokens)))
    starts = n_micro * (RECOMPUTED_STARTS if settings.recompute else 1.0)
    as_measured = replace(ALL_LAYERS, rank=steps.rank)
    each = steps.block.each / block_work(shape, as_measured, steps.length)
    blocks = starts * steps.block.start + work.tokens * each * block_work(shape, settings, length)
    if settings.method == "dora":  # its norm of the whole weight unpacks that once more
        blocks += starts * steps.block.start / 2 + n_micro * each * dora_work(shape, settings)
    if settings.compiled:
        blocks *= COMPILED_SHARE
    trained = work.tokens * settings.trained_share
    rest = n_micro * steps.rest.start + trained * steps.rest.each
    updates = work.steps * trained_numbers(shape, settings) * steps.update
    if settings.is_packed:
        updates *= PACKED_UPDATES[settings.optimizer]
    seconds = shape.n_layer * blocks + rest + updates
    gflops = training_flops(shape, settings, work) / seconds / 1e9
    return Speed(
        low=gflops / (1 + CALIBRATED_SPREAD),
        high=gflops * (1 + CALIBRATED_SPREAD),
        source=f"calibrated on training steps, {gflops:,.0f} GFLOP/s",
    )


def block_work(shape: Shape, settings: Settings, length: float) -> float:
    """Return what a token costs in one block, in operations at the speed of matrix products.

    Source: as `Shape.flops_per_token`; each number of an adapter works forward and twice backward.
    """
    per_weight, per_score, _ = PASSES[settings.passes]
    work: float = per_weight * sum(linear.rows * linear.columns for linear in shape.linears)
    work += ATTENTION_COST * per_score * 2 * shape.d_query * length
    if settings.is_adapter:
        for linear in shape.targeted(settings.targets):
            work += 6 * settings.rank_of(linear) * (linear.rows + linear.columns)
    return work


def dora_work(shape: Shape, settings: Settings) -> float:
    """Return what the norms of one block's weights cost a pass, in operations.

    Source: arXiv:2402.09353, equation 5.
    """
    return sum(
        2 * (settings.rank_of(linear) + 1) * linear.columns * linear.rows
        for linear in shape.targeted(settings.targets)
    )


def trained_numbers(shape: Shape, settings: Settings) -> int:
    """Return how many numbers the optimizer moves."""
    if settings.is_adapter:
        return lora_parameters(shape, settings)
    return trained_parameters(shape, settings)


def utilisation(
    kind: str, n_parameters: int, *, tokens_at_once: float = math.inf
) -> tuple[float, float]:
    """Return the share of a device's peak that training reaches, low and high.

    Args:
        kind: `cpu`, `mps` or `cuda`.
        n_parameters: of the model.
        tokens_at_once: of a micro-batch.
    """
    if kind != "cpu" and n_parameters < SMALL_PARAMETERS:
        return SMALL_UTILISATION
    (low, high), starting = UTILISATION[kind], STARTING_TOKENS.get(kind, (0, 0))
    return low / (1 + starting[0] / tokens_at_once), high / (1 + starting[1] / tokens_at_once)


def speed_of(
    machine: Machine,
    *,
    n_parameters: int,
    tokens_at_once: float = math.inf,
    gflops: float | None = None,
    measured: Sequence[float] = (),
    calibrated: Speed | None = None,
) -> Speed:
    """Return what is known of the speed of training on a machine, best source first.

    Args:
        machine: the machine.
        n_parameters: of the model.
        tokens_at_once: of a micro-batch.
        gflops: what a timed trial of matrix products reached, 10^9 operations a second.
        measured: what past runs with this model reached, 10^9 operations a second.
        calibrated: what real steps of this model's blocks tell (`calibrated_speed`).
    """
    if measured:
        middle = float(np.median(measured))
        spread = max(MEASURED_SPREAD, float(np.std(measured)) / middle)
        return Speed(
            low=middle * (1 - spread),
            high=middle * (1 + spread),
            source=f"{len(measured)} past runs on this machine",
        )
    if calibrated is not None:
        return calibrated
    low, high = utilisation(machine.device, n_parameters, tokens_at_once=tokens_at_once)
    if gflops:
        source = f"timed trial, {gflops:,.0f} GFLOP/s, {low:.0%} to {high:.0%} of it reached"
        return Speed(low=gflops * low, high=gflops * high, source=source)
    if machine.peak_gflops:
        peak = machine.peak_gflops
        source = f"{machine.source}, {peak:,.0f} GFLOP/s, {low:.0%} to {high:.0%} of it reached"
        return Speed(low=peak * low, high=peak * high, source=source)
    return guessed_speed(machine, (low, high))


def guessed_speed(machine: Machine, shares: tuple[float, float]) -> Speed:
    """Return a guess from cores and instruction sets, with an interval that says so."""
    flags = UNMEASURED_CPU_FLOPS_PER_CYCLE
    cores, known = machine.n_cores or USUAL_CORES, machine.instruction_sets or ("avx2",)
    per_cycle = next((flags[flag] for flag in flags if flag in known), 4)
    peak = cores * per_cycle * GUESSED_HERTZ / 1e9
    hint = "; `llamune plan --calibrate` measures it" if machine.is_here else ""
    return Speed(
        low=peak * shares[0] / 2,
        high=peak * shares[1] * 2,
        source=f"a guess from {cores} cores{hint}",
    )
