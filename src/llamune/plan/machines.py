"""The machine that is planned for: this one as it is found, or another by its memory."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from llamune.errors import LlamuneError
from llamune.runs import measuring
from llamune.runs.machine import instruction_sets, processor
from llamune.store import home

__all__ = ["Accelerator", "Machine", "bytes_of", "detect"]

HERE = "this machine"
SYSTEM_SHARE_BYTES = 2 << 30  # what a desktop system and its programs keep, at least
SYSTEM_SHARE = 0.15
CUDA_CONTEXT_BYTES = 600 << 20  # driver, context and kernels of one process
GPU_SHARE_SMALL, GPU_SHARE_LARGE = 0.67, 0.75  # of unified memory, below and above 36 GiB
SMALL_UNIFIED_BYTES = 37 << 30
UNITS = {"": 1 << 30, "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30, "mb": 1 << 20, "mib": 1 << 20,
         "tb": 1 << 40}  # memory is sold in powers of two  # fmt: skip
COMPILERS = ("g++", "clang++", "c++", "cl")
# bytes a second and lane, by PCI Express generation, after line coding
PCIE_LANE_BYTES = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.97e9, 5: 3.94e9, 6: 7.56e9}
INTERESTING_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "i8mm")


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A GPU.

    Args:
        name: as its maker calls it.
        kind: `cuda`, `rocm` or `mps`.
        memory_bytes: its own memory, or the share of unified memory that it may take.
        free_bytes: of that, free now; None for a machine not at hand.
    """

    name: str
    kind: str
    memory_bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a plan needs to know of a machine.

    Args:
        name: what to call it.
        memory_bytes: RAM, or unified memory.
        free_bytes: of that, free for a new process now; None for a machine not at hand.
        accelerator: its GPU, or None.
        n_cores: processor cores.
        instruction_sets: those that matter for speed.
        bandwidth: bytes a second that memory delivers to what computes, or None when not known.
        disk_bandwidth: bytes a second that a first reading of a file gets, or None.
        link_bandwidth: bytes a second from RAM to a GPU with memory of its own, or None.
        peak_gflops: what matrix products reach at best, 10^9 operations a second, or None.
        watts: at the wall under full load, or None.
        has_compiler: whether there is what `torch.compile` needs on the processor.
        disk_free_bytes: free where runs are kept, or None.
        source: where the figures come from.
    """

    name: str
    memory_bytes: int
    free_bytes: int | None = None
    accelerator: Accelerator | None = None
    n_cores: int = 0
    instruction_sets: tuple[str, ...] = ()
    bandwidth: float | None = None
    disk_bandwidth: float | None = None
    link_bandwidth: float | None = None
    peak_gflops: float | None = None
    watts: float | None = None
    has_compiler: bool = False
    disk_free_bytes: int | None = None
    source: str = HERE

    @property
    def is_here(self) -> bool:
        """Whether this is the machine that the plan is made on."""
        return self.source == HERE

    @property
    def unified(self) -> bool:
        """Whether the GPU shares the processor's memory."""
        return self.accelerator is not None and self.accelerator.kind == "mps"

    @property
    def device(self) -> str:
        """What training runs on: `cuda`, `mps` or `cpu`."""
        kind = self.accelerator.kind if self.accelerator else "cpu"
        return "cuda" if kind == "rocm" else kind

    @property
    def place(self) -> str:
        """Where a model's memory lives: `RAM`, `GPU` or `unified`."""
        return {"cpu": "RAM", "mps": "unified", "cuda": "GPU"}[self.device]

    @property
    def budget_bytes(self) -> int:
        """Memory that training may take on `device`, after the system's share."""
        ram = self.free_bytes
        if ram is None:
            ram = self.memory_bytes - max(SYSTEM_SHARE_BYTES, int(self.memory_bytes * SYSTEM_SHARE))
        if self.accelerator is None:
            return ram
        if self.accelerator.kind == "mps":
            return min(ram, self.accelerator.memory_bytes)
        free = self.accelerator.free_bytes
        return (self.accelerator.memory_bytes if free is None else free) - CUDA_CONTEXT_BYTES


def detect() -> Machine:
    """Return this machine as it is now, without importing torch."""
    memory = psutil.virtual_memory()
    limit = container_limit()
    total = min(memory.total, limit) if limit else memory.total
    free = min(memory.available, limit - container_use()) if limit else memory.available
    disk = measuring.disk_speed(home())
    card = nvidia()
    return Machine(
        name=processor(),
        memory_bytes=total,
        free_bytes=max(0, free),
        accelerator=card or amd() or apple(total),
        n_cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        instruction_sets=tuple(
            flag for flag in INTERESTING_FLAGS if flag in instruction_sets().split()
        ),
        bandwidth=measuring.memory_speed(),
        disk_bandwidth=disk.read if disk else None,
        link_bandwidth=pcie_bandwidth() if card else None,
        has_compiler=any(shutil.which(name) for name in COMPILERS),
        disk_free_bytes=disk_free(),
    )


def container_limit() -> int | None:
    """Return the memory that a container may take, or None without a limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        value = number_in(path)
        if value is not None and value < psutil.virtual_memory().total:
            return value
    return None


def container_use() -> int:
    """Return what the container's processes take now, file cache left out."""
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
        stat = Path(folder, "memory.stat")
        if not stat.is_file():
            continue
        fields = dict(line.split(" ", 1) for line in stat.read_text().splitlines() if " " in line)
        return int(fields.get("anon") or fields.get("total_rss") or 0)
    return 0


def number_in(path: str) -> int | None:
    """Return the whole number that a small system file holds."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def disk_free() -> int | None:
    """Return the bytes free where runs are kept."""
    folder = home()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def nvidia() -> Accelerator | None:
    """Return the first NVIDIA GPU that its driver lists."""
    query = "--query-gpu=name,memory.total,memory.free"
    answer = output_of(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    parts = [part.strip() for part in answer.splitlines()[0].split(",")] if answer else []
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        return None
    return Accelerator(
        name=parts[0],
        kind="cuda",
        memory_bytes=int(parts[1]) << 20,
        free_bytes=int(parts[2]) << 20,
    )


def pcie_bandwidth() -> float | None:
    """Return the bytes a second of the first NVIDIA GPU's link, as it says itself."""
    query = "--query-gpu=pcie.link.gen.max,pcie.link.width.max"
    answer = output_of(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    parts = [part.strip() for part in answer.splitlines()[0].split(",")] if answer else []
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return None
    lane = PCIE_LANE_BYTES.get(int(parts[0]))
    return None if lane is None else lane * int(parts[1])


def amd() -> Accelerator | None:
    """Return the first AMD GPU with memory of its own that the kernel lists."""
    for total in sorted(Path("/sys/class/drm").glob("card*/device/mem_info_vram_total")):
        size = number_in(str(total))
        used = number_in(str(total.with_name("mem_info_vram_used")))
        if size and size >= 1 << 30:
            free = None if used is None else size - used
            return Accelerator(name="AMD GPU", kind="rocm", memory_bytes=size, free_bytes=free)
    return None


def apple(memory_bytes: int) -> Accelerator | None:
    """Return the GPU of Apple silicon with the share of memory that it may take."""
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return None
    limit = output_of(["sysctl", "-n", "iogpu.wired_limit_mb"]).strip()
    wired = int(limit) << 20 if limit.isdigit() else 0
    return Accelerator(
        name=output_of(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or "Apple GPU",
        kind="mps",
        memory_bytes=wired or unified_share(memory_bytes),
    )


def unified_share(memory_bytes: int) -> int:
    """Return what macOS lets the GPU take of unified memory by default."""
    small = memory_bytes < SMALL_UNIFIED_BYTES
    return int(memory_bytes * (GPU_SHARE_SMALL if small else GPU_SHARE_LARGE))


def output_of(command: list[str]) -> str:
    """Return what a small program prints, or nothing when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def bytes_of(text: str) -> int:
    """Return the bytes of a memory size such as `16GB`; memory is counted in powers of two.

    Raises:
        LlamuneError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in UNITS or not float(match[1]):
        raise LlamuneError(f"{text!r} is no memory size", hint="write it as 16GB")
    return int(float(match[1]) * UNITS[match[2].lower()])
