"""The settings nearest to the wanted ones that would fit, found by search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamune.gguf import quant_type
from llamune.plan.full import KEEP_TYPES
from llamune.plan.memory import training_memory
from llamune.plan.settings import Settings
from llamune.plan.shape import Shape

if TYPE_CHECKING:
    from llamune.plan.training import Plan

__all__ = ["Option", "nearest_that_fit"]

RANKS = (64, 32, 16, 8, 4)
LENGTHS = (8192, 4096, 2048, 1536, 1024, 768, 512, 384, 256, 128)
N_OPTIONS = 3


@dataclass(frozen=True, kw_only=True)
class Option:
    """Settings that would fit.

    Args:
        settings: the choices.
        needed_bytes: their predicted peak.
        budget_bytes: what there is.
        distance: how far they are from the wanted ones; what is given up, weighed.
    """

    settings: Settings
    needed_bytes: int
    budget_bytes: int
    distance: float

    @property
    def sentence(self) -> str:
        """The option in one line."""
        wanted = self.settings
        kind = wanted.kind
        if wanted.is_adapter:
            kind += f", rank {wanted.rank}"
        elif wanted.is_packed:
            kind += f" in {wanted.keep_type}"
        checkpointing = "on" if wanted.recompute else "off"
        return (
            f"{kind}, length {wanted.length}, {wanted.micro_batch} at once, "
            f"recomputing {checkpointing}: {self.needed_bytes / 1e9:.1f} of "
            f"{self.budget_bytes / 1e9:.1f} GB"
        )


def nearest_that_fit(plan: Plan) -> tuple[Option, ...]:
    """Return up to three options, the one that gives up least first.

    Args:
        plan: a plan that does not fit, or only tightly.
    """
    from llamune.plan.training import verdict

    budget = plan.machine.budget_bytes
    options: list[Option] = []
    for settings, distance in candidates(plan.shape, plan.settings):
        memory = training_memory(
            plan.shape,
            settings,
            device=plan.machine.device,
            place=plan.machine.place,
            factor=plan.memory.factor,
        )
        if verdict(memory.total_bytes, budget) == "fits":
            options.append(
                Option(
                    settings=settings,
                    needed_bytes=memory.total_bytes,
                    budget_bytes=budget,
                    distance=distance,
                )
            )
    return spread(sorted(options, key=lambda option: option.distance))


def candidates(shape: Shape, wanted: Settings) -> Iterator[tuple[Settings, float]]:
    """Yield settings no larger than the wanted ones, with what each gives up.

    A smaller micro-batch costs nothing but speed, recomputing costs a third of the time, a
    shorter length loses text, a smaller rank loses room to learn, another method is another plan.
    """
    batches = sorted({wanted.micro_batch, max(1, wanted.micro_batch // 2), 1}, reverse=True)
    for base in methods(shape, wanted):
        ranks = [wanted.rank]
        if base.is_adapter:
            ranks += [rank for rank in RANKS if rank < wanted.rank]
        for batch in batches:
            for recompute in dict.fromkeys((wanted.recompute, True)):
                for length in (wanted.length, *(x for x in LENGTHS if x < wanted.length)):
                    for rank in ranks:
                        settings = replace(
                            base,
                            micro_batch=batch,
                            recompute=recompute,
                            length=length,
                            rank=rank,
                        )
                        yield settings, distance(wanted, settings)


def methods(shape: Shape, wanted: Settings) -> list[Settings]:
    """Return the wanted method and those that take less, the nearest first."""
    if wanted.is_adapter:
        return [wanted]
    packed = [
        replace(wanted, dense=False, keep_type=kind)
        for kind in smaller_types(shape, None if wanted.dense else wanted.keep_type)
    ]
    lora = replace(wanted, method="lora", dense=False)
    return list(unique([wanted, *packed, lora]))


def smaller_types(shape: Shape, kind: str | None) -> list[str]:
    """Return the types that weights can be trained in, from one on, as far as rows divide."""
    first = 0 if kind is None else KEEP_TYPES.index(kind)
    return [
        name
        for name in KEEP_TYPES[first:]
        if all(linear.columns % quant_type(name).block_size == 0 for linear in shape.linears)
    ]


def unique(every: Iterable[Settings]) -> Iterator[Settings]:
    """Yield settings that were not there before."""
    seen: list[Settings] = []
    for settings in every:
        if settings not in seen:
            seen.append(settings)
            yield settings


def distance(wanted: Settings, given: Settings) -> float:
    """Return how much is given up."""
    return (
        10.0 * (given.kind != wanted.kind)
        + 3.0 * (given.is_packed and given.keep_type != wanted.keep_type)
        + 0.1 * (wanted.micro_batch / given.micro_batch - 1)
        + 0.5 * (given.recompute and not wanted.recompute)
        + 2.0 * (wanted.length / given.length - 1)
        + 0.7 * (wanted.rank / given.rank - 1)
    )


def spread(options: list[Option]) -> tuple[Option, ...]:
    """Return the best options that differ in more than one small thing."""
    chosen: list[Option] = []
    for option in options:
        key = large_choices(option.settings)
        if all(key != large_choices(kept.settings) for kept in chosen):
            chosen.append(option)
        if len(chosen) == N_OPTIONS:
            break
    return tuple(chosen)


def large_choices(settings: Settings) -> tuple[object, ...]:
    """Return what tells two options apart at a glance."""
    return settings.kind, settings.keep_type, settings.recompute, settings.length
