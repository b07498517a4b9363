"""Everything that `llamune plan` says of a model, from its header and the machine alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.arch import describe
from llamune.gguf import ModelFile
from llamune.jobs.preparing import opened, prepare_training
from llamune.license import ACTS, derive, licences_of
from llamune.plan import (
    CloudCost,
    Machine,
    MemoryPlan,
    Plan,
    PowerCost,
    Purpose,
    Recommendation,
    Settings,
    Shape,
    Verdict,
    Work,
    cloud_costs,
    detect,
    disk_bytes,
    plan_settings,
    power_cost,
    published_shape,
    recommend,
    running_memory,
    shape_of,
    training_memory,
    usual_compute_type,
    verdict,
)
from llamune.runs import check_choices
from llamune.runs import machine as this_machine
from llamune.store import UnknownModelError, resolve

if TYPE_CHECKING:
    from llamune.nn import Compute

__all__ = ["ModelPlan", "Wishes", "measure_speed", "plan_model", "resident_together", "table_row"]

LENGTH = 512  # tokens of a record, where no data are given
MEAN_LENGTH = 256
TOKENS = 1_000_000  # what time and money are said for, where no data are given
LARGEST_MICRO_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a person asked of a plan; None leaves it to the defaults.

    Args:
        method: `lora`, `dora`, `full-packed` or `full`.
        rank: of the adapter.
        targets: which layers get one.
        max_length: tokens.
        batch: sequences that go through the model at once.
        recompute: whether activations are recomputed.
        data: files of examples.
        tokens: to train on, where no data are given.
        context: tokens of a conversation, for running.
        n_parallel: conversations at once.
        cache_type: of the key/value cache.
        file_type: of a model that is not at hand.
        purpose: what the tuning is for.
        n_variants: tunings of this base that are kept.
    """

    method: str = "lora"
    rank: int | None = None
    targets: str = "all"
    max_length: int | None = None
    batch: int | None = None
    recompute: bool = False
    data: tuple[Path, ...] = ()
    tokens: int = TOKENS
    context: int = 4096
    n_parallel: int = 1
    cache_type: str = "f16"
    file_type: str | None = None
    purpose: Purpose = "task"
    n_variants: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """All that is predicted of one model on one machine.

    Args:
        shape: the model.
        source: `file`, or `published sizes` when the file is not there.
        machine: where.
        running: memory of the loaded model.
        running_verdict: whether that fits.
        training: the plan of the wished training.
        full: the same data with every weight over dense floats, for comparison.
        recommendation: what to do, with reasons.
        disk: bytes of each product.
        power: electricity of the training.
        clouds: the same work on rented GPUs.
        permitted: licence act to answer.
    """

    shape: Shape
    source: str
    machine: Machine
    running: MemoryPlan
    running_verdict: Verdict
    training: Plan
    full: Plan
    recommendation: Recommendation
    disk: Mapping[str, int]
    power: PowerCost
    clouds: tuple[CloudCost, ...]
    permitted: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return what `plan REF --json` prints."""
        return {
            **self.training.as_json(),
            "plan_machine": this_machine.fingerprint(),
            "source": self.source,
            "machine": machine_json(self.machine),
            "running": {
                "fits": self.running_verdict != "no",
                "verdict": self.running_verdict,
                "predicted_bytes": self.running.total_bytes,
                "parts": [asdict(part) for part in self.running.parts],
            },
            "full": {
                "fits": self.full.fits,
                "predicted_bytes": self.full.memory_bytes,
                "predicted_seconds": self.full.time.middle,
                "times_longer": self.full.time.middle / max(self.training.time.middle, 1e-9),
            },
            "advice": list(self.training.advice),
            "recommendation": asdict(self.recommendation),
            "disk_bytes": dict(self.disk),
            "electricity": asdict(self.power),
            "cloud": [
                {
                    "name": cost.price.name,
                    "usd_low": cost.usd_low,
                    "usd_high": cost.usd_high,
                    "hours_low": cost.hours_low,
                    "hours_high": cost.hours_high,
                    "source": cost.price.source,
                }
                for cost in self.clouds
            ],
            "licence": dict(self.permitted),
        }


def machine_json(machine: Machine) -> dict[str, Any]:
    """Return a machine as JSON."""
    return asdict(machine) | {
        "budget_bytes": machine.budget_bytes,
        "device": machine.device,
        "place": machine.place,
    }


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a model before anything is planned."""

    shape: Shape
    source: str
    permitted: Mapping[str, str]


def know(ref: str, *, file_type: str | None) -> Known:
    """Return a model's numbers and licence answers, from its header or published sizes.

    Raises:
        StoreError: nothing has that name, and no sizes are published under it.
        UnsupportedError: the architecture is not implemented.
    """
    try:
        model = resolve(ref)
    except UnknownModelError:
        shape = published_shape(ref, kind=file_type)
        return Known(shape=shape, source="published sizes", permitted=answers({}, (), [ref]))
    with ModelFile.open(model.paths, mapped=False) as file:
        name = str(model.name) if model.name is not None else model.path.name
        return Known(
            shape=shape_of(file, describe(file), name=name),
            source="file",
            permitted=answers(file.metadata, model.licenses, [name]),
        )


def answers(
    metadata: Mapping[str, Any], texts: Sequence[str], names: Sequence[str]
) -> dict[str, str]:
    """Return what the licences answer for each act."""
    derivative = derive(licences_of(metadata, texts, names=names))
    return {act: derivative.verdicts[act].answer for act in ACTS}


def plan_model(ref: str, wishes: Wishes, *, machine: Machine | None = None) -> ModelPlan:
    """Return everything that is predicted of a model.

    Args:
        ref: a model reference, or a name with published sizes.
        wishes: what the person asked for.
        machine: where; default this machine.

    Raises:
        StoreError: nothing has that name.
        UnsupportedError: the architecture is not implemented.
        DataError: the data cannot be read.
    """
    place = machine or detect()
    known = know(ref, file_type=wishes.file_type)
    shape = known.shape
    if wishes.data and known.source == "file":
        training, n_records = plan_with_data(ref, wishes, place)
    else:
        training, n_records = plan_without_data(shape, wishes, place), None
    dense = replace(training.settings, method="full", compute_type="float32")
    running = running_memory(
        shape,
        context=min(wishes.context, shape.context_length),
        n_parallel=wishes.n_parallel,
        cache_type=wishes.cache_type,
        place=place.place,
    )
    return ModelPlan(
        shape=shape,
        source=known.source,
        machine=place,
        running=running,
        running_verdict=verdict(running.total_bytes, place.budget_bytes),
        training=training,
        full=plan_settings(shape, dense, training.work, machine=place),
        recommendation=recommend(shape, purpose=wishes.purpose, n_records=n_records),
        disk=disk_bytes(shape, training.settings, n_variants=wishes.n_variants),
        power=power_cost(place, training.time),
        clouds=tuple(cloud_costs(shape, training.settings, training.time)),
        permitted=known.permitted,
    )


def plan_with_data(ref: str, wishes: Wishes, machine: Machine) -> tuple[Plan, int]:
    """Return the plan of the very training that `tune` would do, and the number of records."""
    options = {
        "base": ref,
        "data": [str(path) for path in wishes.data],
        "name": "planned",
        "method": wishes.method if wishes.method in {"lora", "dora"} else None,
        "rank": wishes.rank,
        "targets": wishes.targets,
        "max_length": wishes.max_length,
        "micro_batch": wishes.batch,
        "batch": wishes.batch,
        "recompute": wishes.recompute or None,
    }
    chosen = check_choices(
        {key: value for key, value in options.items() if value is not None}, where="options"
    )
    with opened(ref) as base:
        prepared = prepare_training(base, chosen)
    plan = prepared.plan
    settings = replace(
        plan.settings,
        method=wishes.method,
        compute_type=usual_compute_type(machine, plan.shape),
    )
    again = plan_settings(plan.shape, settings, plan.work, machine=machine)
    return again, len(prepared.training_rendered)


def plan_without_data(shape: Shape, wishes: Wishes, machine: Machine) -> Plan:
    """Return the plan of a training on an amount of text that a person can scale from."""
    length = min(wishes.max_length or LENGTH, shape.context_length)
    settings = Settings(
        method=wishes.method,
        rank=wishes.rank or 16,
        targets=wishes.targets,
        micro_batch=wishes.batch or 1,
        length=length,
        recompute=wishes.recompute,
        compute_type=usual_compute_type(machine, shape),
    )
    mean = min(MEAN_LENGTH, length)
    steps = max(1, round(wishes.tokens / (8 * mean)))
    work = Work(steps=steps, tokens=wishes.tokens, mean_length=mean)
    plan = plan_settings(shape, settings, work, machine=machine)
    if wishes.batch is not None:
        return plan
    for count in range(LARGEST_MICRO_BATCH, 1, -1):
        larger = replace(settings, micro_batch=count)
        tried = plan_settings(shape, larger, work, machine=machine)
        if tried.verdict == "fits":
            return tried
    return plan


def measure_speed(ref: str) -> Compute:
    """Time matrix products of a model's shapes anew on this machine, and keep the result.

    Raises:
        StoreError: nothing has that name.
    """
    from llamune.nn import choose_compute

    with ModelFile.open(resolve(ref).paths, mapped=False) as file:
        return choose_compute(describe(file), again=True)


def resident_together(
    plans: Sequence[ModelPlan], budget_bytes: int
) -> tuple[tuple[ModelPlan, ...], tuple[ModelPlan, ...]]:
    """Return which models can be loaded at once in the order given, and which no longer can."""
    inside: list[ModelPlan] = []
    outside: list[ModelPlan] = []
    used = 0
    for plan in plans:
        if verdict(used + plan.running.total_bytes, budget_bytes) == "no":
            outside.append(plan)
        else:
            used += plan.running.total_bytes
            inside.append(plan)
    return tuple(inside), tuple(outside)


def table_row(name: str, machine: Machine, wishes: Wishes) -> dict[str, Any]:
    """Return what running and training a published model takes on a machine.

    Args:
        name: a model known by its published sizes.
        machine: where.
        wishes: context and cache of running, rank and length of training.
    """
    shape = published_shape(name, kind=wishes.file_type)
    running = running_memory(
        shape,
        context=min(wishes.context, shape.context_length),
        n_parallel=wishes.n_parallel,
        cache_type=wishes.cache_type,
        place=machine.place,
    )
    return {
        "name": name,
        "file_bytes": shape.file_bytes,
        "run": {
            "predicted_bytes": running.total_bytes,
            "verdict": verdict(running.total_bytes, machine.budget_bytes),
        },
        **{method: table_cell(shape, method, machine, wishes) for method in TABLE_METHODS},
    }


TABLE_METHODS = ("lora", "full-packed", "full")


def table_cell(shape: Shape, method: str, machine: Machine, wishes: Wishes) -> dict[str, Any]:
    """Return what a method takes; with activations recomputed where it only fits like that."""
    settings = Settings(
        method=method,
        rank=wishes.rank or 16,
        micro_batch=wishes.batch or 1,
        length=wishes.max_length or LENGTH,
        recompute=wishes.recompute,
        compute_type=usual_compute_type(machine, shape),
    )
    found = {}
    for tried in (settings, replace(settings, recompute=True)):
        memory = training_memory(shape, tried, device=machine.device, place=machine.place)
        found = {
            "predicted_bytes": memory.total_bytes,
            "verdict": verdict(memory.total_bytes, machine.budget_bytes),
            "recompute": tried.recompute,
        }
        if found["verdict"] == "fits":
            break
    return found
