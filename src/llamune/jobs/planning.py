"""Everything that `llamune plan` says of a model, from its header and the machine alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.arch import describe
from llamune.convert import file_type, predict_size
from llamune.gguf import ModelFile
from llamune.jobs.preparing import opened, prepare_training
from llamune.license import ACTS, derive, licences_of
from llamune.plan import (
    MERGE_TYPES,
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
    past_runs,
    plan_settings,
    power_cost,
    published_license,
    published_shape,
    recommend,
    running_memory,
    shape_key,
    shape_of,
    training_memory,
    usual_compute_type,
    verdict,
)
from llamune.runs import check_choices, measuring
from llamune.runs import machine as this_machine
from llamune.store import UnknownModelError, home, resolve

if TYPE_CHECKING:
    from llamune.nn import Compute
    from llamune.train import MeasuredSteps

__all__ = [
    "Calibration",
    "ModelPlan",
    "Wishes",
    "calibrate",
    "machine_json",
    "plan_model",
    "resident_together",
    "table_row",
]

LENGTH = 512  # tokens of a record, where no data are given
MEAN_LENGTH = 256
TOKENS = 1_000_000  # what time and money are said for, where no data are given
LARGEST_MICRO_BATCH = 4
SIZED_TYPES = (*MERGE_TYPES, "BF16", "F32")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a person asked of a plan; None leaves it to the defaults.

    Args:
        method: `lora`, `dora` or `full`.
        dense: of `full`, whether over floats instead of packed blocks.
        keep_type: of `full`, the quant type of the blocks.
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
    dense: bool = False
    keep_type: str = "Q8_0"
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
        methods: the same data by LoRA, every weight in its blocks, and over dense floats.
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
    methods: tuple[Plan, ...]
    recommendation: Recommendation
    disk: Mapping[str, int]
    power: PowerCost
    clouds: tuple[CloudCost, ...]
    permitted: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def full(self) -> Plan:
        """Every weight over dense floats, the last of `methods`."""
        return self.methods[-1]

    @property
    def comparison(self) -> list[dict[str, Any]]:
        """What each of `methods` takes, and how many times the first one's that is."""
        first = self.methods[0].time.middle
        return [
            {
                "method": plan.settings.kind,
                "fits": plan.fits,
                "verdict": plan.verdict,
                "predicted_bytes": plan.memory_bytes,
                "low_seconds": plan.time.total_low,
                "high_seconds": plan.time.total_high,
                "times_longer": plan.time.middle / max(first, 1e-9),
                "electricity": asdict(power_cost(self.machine, plan.time)),
                "kept_bytes": kept_bytes(plan, self.sizes),
            }
            for plan in self.methods
        ]

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
            "methods": self.comparison,
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


def kept_bytes(plan: Plan, sizes: Mapping[str, int]) -> int:
    """Return what a tuning leaves on disk: an adapter, or a whole file."""
    disk = disk_bytes(plan.shape, plan.settings, sizes=sizes)
    return disk["adapter"] if plan.settings.is_adapter else disk["merged"]


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
    sizes: Mapping[str, int]  # of a file by file type


def know(ref: str, *, kind: str | None) -> Known:
    """Return a model's numbers and licence answers, from its header or published sizes.

    Raises:
        StoreError: nothing has that name, and no sizes are published under it.
        UnsupportedError: the architecture is not implemented.
    """
    try:
        model = resolve(ref)
    except UnknownModelError:
        shape = published_shape(ref, kind=kind)
        sizes = {kind: published_shape(ref, kind=kind).file_bytes for kind in SIZED_TYPES}
        permitted = answers({"general.license": published_license(ref)}, (), [shape.name])
        return Known(shape=shape, source="published sizes", permitted=permitted, sizes=sizes)
    with ModelFile.open(model.paths, mapped=False) as file:
        name = str(model.name) if model.name is not None else model.path.name
        return Known(
            shape=shape_of(file, describe(file), name=name),
            source="file",
            permitted=answers(file.metadata, model.licenses, [name]),
            sizes=sizes_of(file),
        )


def sizes_of(file: ModelFile) -> dict[str, int]:
    """Return how large the file would be in the types that a tuning may leave, by its header."""
    return {kind: predict_size(file, file_type(kind)).nbytes for kind in SIZED_TYPES}


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
    known = know(ref, kind=wishes.file_type)
    shape = known.shape
    if wishes.data and known.source == "file":
        training, n_records, trained_tokens = plan_with_data(ref, wishes, place)
    else:
        training = plan_without_data(shape, wishes, place)
        n_records, trained_tokens = None, 0
    methods = tuple(
        plan_settings(shape, settings, training.work, machine=place)
        for settings in methods_beside(training.settings)
    )
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
        methods=methods,
        recommendation=recommend(
            shape,
            purpose=wishes.purpose,
            n_records=n_records,
            n_tokens=trained_tokens,
            packed_fits=methods[1].fits,
            past=past_runs(shape_key(shape)),
            sizes=known.sizes,
            running_bytes=running.total_bytes - shape.file_bytes,
            budget_bytes=place.budget_bytes,
        ),
        disk=disk_bytes(shape, training.settings, n_variants=wishes.n_variants, sizes=known.sizes),
        power=power_cost(place, training.time),
        clouds=tuple(cloud_costs(shape, training.settings, training.time)),
        permitted=known.permitted,
        sizes=known.sizes,
    )


def methods_beside(settings: Settings) -> tuple[Settings, ...]:
    """Return the same choices for LoRA, for every weight packed, and for every weight dense."""
    return (
        settings if settings.is_adapter else replace(settings, method="lora", dense=False),
        replace(settings, method="full", dense=False, optimizer="factored"),
        replace(settings, method="full", dense=True, compute_type="float32"),
    )


def plan_with_data(ref: str, wishes: Wishes, machine: Machine) -> tuple[Plan, int, int]:
    """Return the plan of the very training that `tune` would do, records, and trained tokens."""
    options = {
        "base": ref,
        "data": [str(path) for path in wishes.data],
        "name": "planned",
        "method": wishes.method,
        "dense": wishes.dense or None,
        "keep_type": wishes.keep_type,
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
    settings = replace(plan.settings, compute_type=usual_compute_type(machine, plan.shape))
    again = plan_settings(plan.shape, settings, plan.work, machine=machine)
    return again, len(prepared.training_rendered), prepared.training.n_trained


def plan_without_data(shape: Shape, wishes: Wishes, machine: Machine) -> Plan:
    """Return the plan of a training on an amount of text that a person can scale from."""
    length = min(wishes.max_length or LENGTH, shape.context_length)
    settings = Settings(
        method=wishes.method,
        dense=wishes.dense,
        keep_type=wishes.keep_type,
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


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was measured of this machine.

    Args:
        compute: type, threads and speed of matrix products.
        steps: training steps of the model's first blocks.
        memory_bandwidth: bytes a second that the processor reads.
        disk: bytes a second of the disk under Llamune's home, or None where it cannot be told.
    """

    compute: Compute
    steps: MeasuredSteps
    memory_bandwidth: float
    disk: measuring.DiskSpeed | None


def calibrate(ref: str) -> Calibration:
    """Measure this machine anew on a model's shapes, for about ten seconds, and keep it.

    Raises:
        StoreError: nothing has that name.
        UnsupportedError: the architecture is not implemented.
    """
    from llamune.nn import best_device, choose_compute
    from llamune.train import measure_steps

    with ModelFile.open(resolve(ref).paths) as file:
        family = describe(file)
        memory, disk = measuring.measure_memory(), measuring.measure_disk(home())
        compute = choose_compute(family, best_device(), again=True)
        kind = shape_of(file, family).file_type
        steps = measure_steps(file, family, compute, file_type=kind)
    return Calibration(compute=compute, steps=steps, memory_bandwidth=memory, disk=disk)


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
        **{base.kind: table_cell(shape, base, machine, wishes) for base in TABLE_SETTINGS},
    }


TABLE_SETTINGS = (Settings(), Settings(method="full"), Settings(method="full", dense=True))


def table_cell(shape: Shape, base: Settings, machine: Machine, wishes: Wishes) -> dict[str, Any]:
    """Return what a method takes; with activations recomputed where it only fits like that."""
    settings = replace(
        base,
        keep_type=wishes.keep_type,
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
