"""The plan of one training: memory, time, and whether it fits."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from llamune.arch import Family
from llamune.data import filled_length
from llamune.gguf import ModelFile
from llamune.plan.calibration import experience, known_compute
from llamune.plan.machines import Machine, detect
from llamune.plan.memory import MemoryPlan, training_memory
from llamune.plan.settings import Settings
from llamune.plan.shape import Shape, shape_of
from llamune.plan.timing import (
    TimePlan,
    Work,
    calibrated_speed,
    padded_tokens,
    speed_of,
    trained_numbers,
    training_time,
)
from llamune.runs import Recipe, known_steps, steps_key
from llamune.runs.machine import fingerprint

__all__ = [
    "Plan",
    "Verdict",
    "is_uncalibrated",
    "largest_micro_batch",
    "plan_settings",
    "plan_training",
    "settings_of",
    "shape_key",
    "usual_compute_type",
    "verdict",
]

Verdict = Literal["fits", "tight", "no"]
TIGHT = 0.9  # of the budget: beyond, a browser tab decides whether it works
COMPILE_FROM_PARAMETERS = 20_000_000  # as `nn` compiles; below, it takes longer than it saves
WORTH_COMPILING_SECONDS = 600.0  # of training; compiling takes half a minute


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training is predicted to take.

    Args:
        shape: the model.
        settings: the choices.
        work: steps and tokens.
        machine: where.
        memory: predicted peak and its parts.
        time: predicted seconds and what they come from.
        verdict: `fits`, `tight` or `no`.
        n_trained: numbers that are trained.
    """

    shape: Shape
    settings: Settings
    work: Work
    machine: Machine
    memory: MemoryPlan
    time: TimePlan
    verdict: Verdict
    n_trained: int

    @property
    def fits(self) -> bool:
        """Whether it is predicted to fit, tightly or not."""
        return self.verdict != "no"

    @property
    def memory_bytes(self) -> int:
        """Predicted peak of the training process, or of the GPU it trains on."""
        return self.memory.total_bytes

    @property
    def seconds_low(self) -> float:
        """Seconds of the optimizer steps, at best."""
        return self.time.low

    @property
    def seconds_high(self) -> float:
        """Seconds of the optimizer steps, at worst."""
        return self.time.high

    @property
    def advice(self) -> tuple[str, ...]:
        """What would fit, as sentences; empty when this fits well."""
        from llamune.plan.advice import nearest_that_fit

        if self.verdict == "fits":
            return ()
        return tuple(option.sentence for option in nearest_that_fit(self))

    def as_json(self) -> dict[str, Any]:
        """Return the plan as `plan --json` prints it and a run's record keeps it."""
        settings = asdict(self.settings) | {"ranks": dict(self.settings.ranks)}
        if not isinstance(self.settings.targets, str):
            settings["targets"] = sorted(self.settings.targets)
        return {
            "model": self.shape.name,
            "fits": self.fits,
            "verdict": self.verdict,
            "memory": {
                "predicted_bytes": self.memory.total_bytes,
                "budget_bytes": self.machine.budget_bytes,
                "parts": [asdict(part) for part in self.memory.parts],
                "factor": self.memory.factor,
            },
            "time": {
                "predicted_seconds": self.time.middle,
                "low_seconds": self.time.low,
                "high_seconds": self.time.high,
                "total_low_seconds": self.time.total_low,
                "total_high_seconds": self.time.total_high,
                "tokens": self.time.tokens,
                "source": self.time.speed.source,
            },
            "parameters_trained": self.n_trained,
            "settings": settings,
            "shape": shape_key(self.shape),
            "passes": self.settings.passes,
            "flops": self.time.flops,
            "uncorrected_bytes": self.memory.uncorrected_bytes,
            "machine": fingerprint(),
        }


def shape_key(shape: Shape) -> str:
    """Return what makes two models equally fast to train."""
    return f"{shape.architecture} {shape.n_layer}x{shape.d_model}x{shape.d_ff} {shape.file_type}"


def is_uncalibrated(plan: Plan) -> bool:
    """Return whether neither measured steps nor past runs of this machine tell the speed."""
    if not plan.machine.is_here:
        return False
    steps = known_steps(steps_key_of(plan.shape, plan.machine.device))
    return steps is None and not experience(shape_key(plan.shape), plan.settings.passes).gflops


def steps_key_of(shape: Shape, device: str) -> str:
    """Return under which key `train` keeps the measured steps of a model."""
    return steps_key(
        device=device,
        architecture=shape.architecture,
        d_model=shape.d_model,
        d_ff=shape.d_ff,
        file_type=shape.file_type,
    )


def verdict(needed: int, budget: int) -> Verdict:
    """Return whether a size fits into a budget."""
    if needed > budget:
        return "no"
    return "fits" if needed <= TIGHT * budget else "tight"


def settings_of(
    recipe: Recipe,
    *,
    length: int,
    compute_type: str,
    trained_share: float = 1.0,
    compiled: bool = False,
) -> Settings:
    """Return the choices of a recipe that memory and time depend on.

    Args:
        recipe: the settled recipe.
        length: tokens of the longest rendered record, after cutting.
        compute_type: what the trial chose where the recipe says `auto`.
        trained_share: share of tokens that the loss counts.
        compiled: whether decoder layers are compiled.
    """
    chosen = compute_type if recipe.compute_type == "auto" else recipe.compute_type
    row = recipe.micro_batch * length if recipe.packing else length
    return Settings(
        method=recipe.method,
        dense=recipe.dense,
        keep_type=recipe.keep_type,
        weight_type=recipe.weight_type,
        optimizer=recipe.optimizer,
        train_embeddings=recipe.train_embeddings,
        rank=recipe.rank,
        ranks=dict(recipe.ranks),
        targets=recipe.targets,
        micro_batch=1 if recipe.packing else recipe.micro_batch,
        length=filled_length(row),
        trained_share=trained_share,
        recompute=recipe.recompute,
        dropout=recipe.dropout > 0,
        compute_type=chosen,
        compiled=compiled,
        new_tokens=len(recipe.add_tokens),
    )


def plan_training(
    file: ModelFile,
    family: Family,
    recipe: Recipe,
    *,
    lengths: Sequence[int],
    validation_lengths: Sequence[int] = (),
    trained_tokens: int | None = None,
    machine: Machine | None = None,
    gflops: float | None = None,
    compute_type: str | None = None,
    name: str | None = None,
) -> Plan:
    """Return what a training by this recipe is predicted to take.

    Args:
        file: the base; only its header is looked at.
        family: what `arch.describe` said of it.
        recipe: the settled recipe.
        lengths: tokens of each rendered training record.
        validation_lengths: tokens of each held-out record.
        trained_tokens: of the training records, how many the loss counts; default all.
        machine: where; default this machine.
        gflops: what the timed trial reached, 10^9 operations a second.
        compute_type: what the timed trial chose; default what this machine remembers.
        name: what to call the model.
    """
    shape = shape_of(file, family, name=name)
    place = machine or detect()
    longest = min(max(lengths), recipe.max_length)
    total = sum(lengths)
    mean_length = min(total / len(lengths), recipe.max_length)
    # packed rows are as long as a whole micro-batch, and hold as many records as fit
    at_once = recipe.micro_batch * (recipe.max_length / mean_length if recipe.packing else 1)
    settings = settings_of(
        recipe,
        length=longest,
        compute_type=compute_type or usual_compute_type(place, shape),
        trained_share=1.0 if trained_tokens is None else trained_tokens / max(1, total),
    )
    work = Work(
        steps=recipe.steps,
        tokens=padded_tokens(
            lengths,
            steps=recipe.steps,
            batch=recipe.batch,
            micro_batch=recipe.micro_batch,
            max_length=recipe.max_length,
            packing=recipe.packing,
        ),
        mean_length=mean_length,
        micro_batches=recipe.steps * math.ceil(recipe.batch / at_once),
        validation_tokens=sum(min(length, recipe.max_length) for length in validation_lengths),
        evaluations=recipe.evaluations,
        tokens_read=total + sum(validation_lengths),
    )
    plan = plan_settings(shape, settings, work, machine=place, gflops=gflops)
    if not worth_compiling(plan):
        return plan
    compiled = replace(settings, compiled=True)
    return plan_settings(shape, compiled, work, machine=place, gflops=gflops)


def worth_compiling(plan: Plan) -> bool:
    """Return whether compiling the decoder layers earns back what it takes."""
    large = plan.shape.multiplying_parameters >= COMPILE_FROM_PARAMETERS
    able = plan.machine.has_compiler or plan.machine.device == "cuda"
    return plan.settings.is_adapter and large and able and plan.time.low >= WORTH_COMPILING_SECONDS


def plan_settings(
    shape: Shape,
    settings: Settings,
    work: Work,
    *,
    machine: Machine | None = None,
    gflops: float | None = None,
) -> Plan:
    """Return what a training with these settings is predicted to take.

    Args:
        shape: the model.
        settings: the choices.
        work: steps and tokens.
        machine: where; default this machine.
        gflops: what a timed trial reached; default what this machine remembers.
    """
    place = machine or detect()
    known = experience(shape_key(shape), settings.passes) if place.is_here else None
    if place.is_here and gflops is None:
        trial = known_compute(place.device, shape.d_model, shape.d_ff)
        gflops = trial[1] if trial else None
    steps = known_steps(steps_key_of(shape, place.device)) if place.is_here else None
    memory = training_memory(
        shape,
        settings,
        device=place.device,
        place=place.place,
        factor=known.memory_factor if known else 1.0,
    )
    speed = speed_of(
        place,
        n_parameters=shape.n_parameters,
        tokens_at_once=work.tokens / work.micro_batches if work.micro_batches else settings.tokens,
        gflops=gflops,
        measured=known.gflops if known else (),
        calibrated=calibrated_speed(shape, settings, work, steps) if steps else None,
    )
    return Plan(
        shape=shape,
        settings=settings,
        work=work,
        machine=place,
        memory=memory,
        time=training_time(shape, settings, work, speed),
        verdict=verdict(memory.total_bytes, place.budget_bytes),
        n_trained=trained_numbers(shape, settings),
    )


def usual_compute_type(machine: Machine, shape: Shape) -> str:
    """Return the type that training on a machine computes in, as far as is known."""
    if machine.is_here and (trial := known_compute(machine.device, shape.d_model, shape.d_ff)):
        return trial[0]
    if machine.device != "cpu" or {"avx512_bf16", "amx_bf16"} & set(machine.instruction_sets):
        return "bfloat16"
    return "float32"


def largest_micro_batch(
    shape: Shape, settings: Settings, machine: Machine, *, batch: int, n_processes: int = 1
) -> int:
    """Return the most sequences that go through the model at once without being tight.

    Args:
        shape: the model.
        settings: the choices; their own micro-batch is not looked at.
        machine: where.
        batch: sequences an optimizer step, the most that make sense.
        n_processes: how many train in that memory, each with as many sequences.

    Returns:
        At least 1, also when not even that fits.
    """

    def is_too_large(count: int) -> bool:
        memory = training_memory(
            shape, replace(settings, micro_batch=count), device=machine.device, place=machine.place
        )
        return verdict(memory.total_bytes * n_processes, machine.budget_bytes) != "fits"

    return max(1, bisect_left(range(1, batch + 1), True, key=is_too_large))
