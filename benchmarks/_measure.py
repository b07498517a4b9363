"""What every comparison measures with: one trial a process, seconds, memory, and where it ran."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

HERE = Path(__file__).resolve().parent
SAMPLE_SECONDS = 0.01  # between two looks at a trial's memory

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what the work returns, and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def trial(script: str, *options: str | int | Path) -> dict[str, Any]:
    """Run one trial of a script in a process of its own.

    Args:
        script: a script of this folder, which prints its figures as a last line of JSON.
        options: its command line.

    Returns:
        Those figures, and `peak_private_bytes`: the most memory that was the process's own at
        any look, without the pages of files that it has mapped.
    """
    command = [sys.executable, "-m", f"benchmarks.{script}", *map(str, options)]
    with subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
        peak = peak_private_bytes(process)
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, printed)
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return {**figures, "peak_private_bytes": peak}


def peak_private_bytes(process: subprocess.Popen[str]) -> int:
    """Wait for a process and return the most private memory that it had, bytes."""
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            memory = watched.memory_info()
        except psutil.NoSuchProcess:
            break
        peak = max(peak, memory.rss - getattr(memory, "shared", 0))
        time.sleep(SAMPLE_SECONDS)
    process.wait()
    return peak


def peak_resident_bytes(*, of_children: bool = False) -> int:
    """Return the most memory that this process, or one that it waited for, has had resident."""
    status = Path("/proc/self/status")
    if not of_children and status.exists():  # the other figure starts at the parent's own
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    who = resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF
    scale = 1 if sys.platform == "darwin" else 1024  # kilobytes on Linux
    return resource.getrusage(who).ru_maxrss * scale


def earlier_figures(script: str) -> dict[str, Any]:
    """Return the figures of a script that are kept of an earlier run on such a machine."""
    path = HERE / "results" / f"{script}-{instruction_set()}.json"
    if not path.is_file():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return figures


def measured_on() -> dict[str, str]:
    """Return what a script says of itself at the end: commit and processor."""
    return {"commit": commit(), "processor": processor(), "instruction_set": instruction_set()}


def commit() -> str:
    """Return the commit that was measured, marked when files had been changed since."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def processor() -> str:
    """Return the processor's name."""
    return cpu_info("model name") or platform.processor() or platform.machine()


def instruction_set() -> str:
    """Return the widest instruction set that matters to matrix products here."""
    flags = cpu_info("flags").split()
    for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2"):
        if flag in flags:
            return flag
    return platform.machine().lower()


def cpu_info(field: str) -> str:
    """Return a field of the first processor, where the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith(field))
    return next(lines, ":").partition(":")[2].strip()
