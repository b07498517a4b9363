"""What type, threads and speed a device computes with: measured in a fraction of a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from llamune.arch import Family
from llamune.errors import UnsupportedError
from llamune.runs import machine, measuring

__all__ = ["Compute", "best_device", "choose_compute"]

DEVICES: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}
"""device -> whether this machine has it; the best first"""

disturbed_trials: dict[str, Compute] = {}
"""what was timed in this process while others were busy, so that it does not change its mind"""

TOPIC = "compute"
N_TOKENS = 256  # rows of the trial's left matrix
FIRST_TOKENS = 8  # a type that is hopeless shows with few
TRIAL_SECONDS = 0.1
HOPELESS = 4.0  # times slower than the best so far


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What layers compute in, and how fast matrix products of this model's shapes went."""

    device: str
    dtype: str  # `float32`, `bfloat16` or `float16`
    n_threads: int  # CPU threads; 0 where the device is not the CPU
    gflops: float  # 10^9 floating-point operations a second
    kept: bool = True  # False: other programs took the processor meanwhile, not remembered

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch names it."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)  # noqa: S101  our own field
        return found


def best_device() -> str:
    """Return the device to use: `$LLAMUNE_DEVICE`, else the best present (CUDA, MPS, the CPU).

    Raises:
        UnsupportedError: the variable names a device that is not here.
    """
    present = [name for name, is_here in DEVICES.items() if is_here()]
    wanted = os.environ.get(machine.DEVICE_VARIABLE)
    if not wanted:
        return present[0]
    if wanted.partition(":")[0] not in present:
        raise UnsupportedError(f"device {wanted!r} is not here", hint=f"here: {', '.join(present)}")
    return wanted


def choose_compute(
    family: Family,
    device: str | torch.device | None = None,
    *,
    n_threads: int | None = None,
    again: bool = False,
) -> Compute:
    """Return the fastest way to compute on the device, timed once and kept for this machine.

    What was timed beside busy programs serves this process alone: the next one tries again.

    Args:
        family: gives the shapes, and whether f16 would overflow.
        device: default the best present.
        n_threads: use this many instead of trying.
        again: time it anew, though it is known: the machine may have been busy.
    """
    place = torch.device(device or best_device())
    key = trial_key(family, place, n_threads)
    if not again and (known := machine.recall(TOPIC, key)) is not None:
        return Compute(**known)
    if not again and (passing := disturbed_trials.get(key)) is not None:
        return passing
    others = measuring.Others()
    chosen = trial(family, place, n_threads)
    if place.type == "cpu" and others.disturbed(chosen.n_threads):
        chosen = disturbed_trials[key] = replace(chosen, kept=False)
    else:
        facts = asdict(chosen)
        del facts["kept"]
        machine.remember(TOPIC, key, facts)
    return chosen


def trial_key(family: Family, device: torch.device, n_threads: int | None) -> str:
    """Return what a measurement depends on beside the machine, as text."""
    sizes = family.sizes
    threads = n_threads or os.environ.get("OMP_NUM_THREADS") or "free"
    f16 = "no f16" if family.bf16_only else "f16"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return (
        f"{name}, {sizes.d_model}x{sizes.d_ff}, {f16}, threads {threads}, torch {torch.__version__}"
    )


def trial(family: Family, place: torch.device, n_threads: int | None) -> Compute:
    """Time every type and thread count worth it."""
    before = torch.get_num_threads()
    best: tuple[float, torch.dtype, int] | None = None
    try:
        for threads in [n_threads] if n_threads else thread_counts(place):
            if place.type == "cpu":
                torch.set_num_threads(threads)
            for dtype in candidates(family, place):
                speed = gflops(family, place, dtype, at_least=best[0] / HOPELESS if best else 0.0)
                if best is None or speed > best[0]:
                    best = (speed, dtype, threads)
    finally:
        torch.set_num_threads(before)
    assert best is not None  # noqa: S101  there is always one candidate
    speed, dtype, threads = best
    return Compute(
        device=place.type,
        dtype=str(dtype).removeprefix("torch."),
        n_threads=threads if place.type == "cpu" else 0,
        gflops=round(speed, 1),
    )


def thread_counts(device: torch.device) -> Sequence[int]:
    """Return the thread counts worth a trial: the limit set from outside, else the cores."""
    if device.type != "cpu":
        return [0]
    if os.environ.get("OMP_NUM_THREADS"):
        return [torch.get_num_threads()]
    import psutil

    physical = psutil.cpu_count(logical=False) or torch.get_num_threads()
    logical = psutil.cpu_count(logical=True) or physical
    return sorted({physical, logical})


def candidates(family: Family, device: torch.device) -> list[torch.dtype]:
    """Return the types worth a trial, f32 first; f16 never where its range is too small."""
    types = [torch.float32, torch.bfloat16]
    if device.type != "cpu" and not family.bf16_only:
        types.append(torch.float16)
    return types


def gflops(
    family: Family, device: torch.device, dtype: torch.dtype, *, at_least: float = 0.0
) -> float:
    """Return the speed of the feed-forward product of this model; 0 for a type the device lacks.

    Args:
        family: gives the shape.
        device: where to compute.
        dtype: what in.
        at_least: give up after a small trial when the speed is below this.
    """
    sizes = family.sizes
    try:
        weight = torch.ones(sizes.d_ff, sizes.d_model, dtype=dtype, device=device)
        first = timed(weight, FIRST_TOKENS, seconds=0.0)
        # a few rows run slower than many, but not tens of times
        if first * HOPELESS < at_least:
            return first
        return timed(weight, N_TOKENS, seconds=TRIAL_SECONDS)
    except (RuntimeError, TypeError):  # the device does not have this type
        return 0.0


def timed(weight: torch.Tensor, n_tokens: int, *, seconds: float) -> float:
    """Return GFLOP/s of x Wᵀ with `n_tokens` rows, repeated for about `seconds`."""
    x = torch.ones(n_tokens, weight.shape[1], dtype=weight.dtype, device=weight.device)
    operations = 2 * n_tokens * weight.numel()
    x @ weight.T
    synchronize(weight.device)
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        x @ weight.T
        synchronize(weight.device)
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return operations / best / 1e9


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
