"""The settings nearest to the wanted ones that would fit, found by search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamune.plan.memory import Settings, training_memory

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
        kind = f"{wanted.method}, rank {wanted.rank}" if wanted.is_adapter else wanted.method
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
    for settings, distance in candidates(plan.settings):
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


def candidates(wanted: Settings) -> Iterator[tuple[Settings, float]]:
    """Yield settings no larger than the wanted ones, with what each gives up.

    A smaller micro-batch costs nothing but speed, recomputing costs a third of the time, a
    shorter length loses text, a smaller rank loses room to learn, another method is another plan.
    """
    methods = [wanted.method] if wanted.is_adapter else [wanted.method, "full-packed", "lora"]
    batches = sorted({wanted.micro_batch, max(1, wanted.micro_batch // 2), 1}, reverse=True)
    for method in dict.fromkeys(methods):
        adapter = method in {"lora", "dora"}
        ranks = [wanted.rank, *(r for r in RANKS if r < wanted.rank)] if adapter else [wanted.rank]
        for batch in batches:
            for recompute in dict.fromkeys((wanted.recompute, True)):
                for length in (wanted.length, *(x for x in LENGTHS if x < wanted.length)):
                    for rank in ranks:
                        settings = replace(
                            wanted,
                            method=method,
                            micro_batch=batch,
                            recompute=recompute,
                            length=length,
                            rank=rank,
                        )
                        yield settings, distance(wanted, settings)


def distance(wanted: Settings, given: Settings) -> float:
    """Return how much is given up."""
    return (
        10.0 * (given.method != wanted.method)
        + 0.1 * (wanted.micro_batch / given.micro_batch - 1)
        + 0.5 * (given.recompute and not wanted.recompute)
        + 2.0 * (wanted.length / given.length - 1)
        + 0.7 * (wanted.rank / given.rank - 1)
    )


def spread(options: list[Option]) -> tuple[Option, ...]:
    """Return the best options that differ in more than one small thing."""
    chosen: list[Option] = []
    for option in options:
        key = (option.settings.method, option.settings.recompute, option.settings.length)
        if all(
            key != (kept.settings.method, kept.settings.recompute, kept.settings.length)
            for kept in chosen
        ):
            chosen.append(option)
        if len(chosen) == N_OPTIONS:
            break
    return tuple(chosen)
