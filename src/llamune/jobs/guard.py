"""Around a long run: a parent that reports a kill, a machine that stays awake."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from llamune.jobs.formats import bytes_text
from llamune.runs import Run
from llamune.store import Ollama, OllamaError
from llamune.train import OutOfMemory, what_to_lower

__all__ = ["awake", "explain_kill", "free_ollama", "supervise"]

INSIDE = "LLAMUNE_SUPERVISED"
PROGRAM = "from llamune.cli import main; main()"
OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


def supervise() -> int | None:
    """Run this same command in a child process, and say so when the kernel kills it.

    A process that is killed for memory cannot say why it ended; its parent can.

    Returns:
        The child's exit code in the parent; None in the child, and where a process has no
        children to wait for (Windows), or belongs to a group of processes (torchrun).

    Raises:
        OutOfMemory: the kernel killed the child.
    """
    if os.name == "nt" or INSIDE in os.environ or "RANK" in os.environ:
        return None
    kills_before = oom_kills()
    command = [sys.executable, "-c", PROGRAM, *sys.argv[1:]]
    # Ctrl-C reaches the child itself: it belongs to the same terminal
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            command,
            env={**os.environ, INSIDE: str(os.getpid())},
            preexec_fn=take_interrupts,  # noqa: PLW1509  no threads run yet
        )
        signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
        code = child.wait()
    finally:
        signal.signal(signal.SIGINT, previous)
    if code == -signal.SIGKILL:
        raise explain_kill(child.pid, by_kernel=oom_kills() > kills_before)
    return code if code >= 0 else 128 - code


def take_interrupts() -> None:
    """Let Ctrl-C reach the child, which inherits its parent's deaf ear."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def oom_kills() -> int:
    """Return how often the kernel has killed for memory, where it says so."""
    for path in OOM_COUNTERS:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def explain_kill(process: int, *, by_kernel: bool) -> OutOfMemory:
    """Return the error for a training that was killed, and note it in the run's record.

    Args:
        process: id of the process that trained.
        by_kernel: whether the kernel counted a kill for memory meanwhile.
    """
    why = "for want of memory" if by_kernel else "most likely for want of memory"
    fault = f"the system killed the training, {why}"
    lower = "a lower --max-length, or with --micro-batch 1 --recompute"
    for run in reversed(Run.all()):
        record = run.record
        if record.process == process and record.state == "running":
            run.update(state="failed", fault=fault)
            lower = what_to_lower(run.recipe)
            break
    return OutOfMemory(fault, hint=f"start it again with {lower}")


@contextmanager
def awake(*, allow_sleep: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Keep the machine from sleeping while the block runs, and say so.

    Args:
        allow_sleep: do nothing.
        say: called with a line about sleep, and one when the machine runs on battery.
    """
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is not None and not battery.power_plugged:
        say(f"warning: on battery ({battery.percent:.0f} %): training drains it and runs slower")
    command = None if allow_sleep else inhibitor()
    if command is None:
        yield
        return
    holder = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        say("· the machine is kept awake (--allow-sleep lets it sleep)")
        yield
    finally:
        holder.terminate()
        holder.wait()


def free_ollama(*, confirm: Callable[[str], bool], say: Callable[[str], None]) -> bool:
    """Unload what Ollama holds in this machine's memory, on consent: training needs the room.

    Args:
        confirm: asked before anything is unloaded.
        say: called with what was found.

    Returns:
        Whether there is more memory now.
    """
    server = Ollama.find()
    if server is None:
        return False
    with server:
        try:
            held = [] if server.is_remote else server.loaded()
            for model in held:
                say(f"Ollama holds {model.name} in memory, {bytes_text(model.size_bytes)}")
            if not held or not confirm("Unload from Ollama while training?"):
                return False
            for model in held:
                server.unload(model.name)
        except OllamaError as error:  # its memory is worth asking for, no reason to stop
            say(f"warning: {error.message}")
            return False
    return True


def inhibitor() -> list[str] | None:
    """Return the command that keeps this system awake while it runs, or None."""
    if platform.system() == "Darwin":
        return ["caffeinate", "-i", "-w", str(os.getpid())]
    if shutil.which("systemd-inhibit") and Path("/run/systemd/system").is_dir():
        reason = ["--who=llamune", "--why=a training runs", "--what=sleep:idle"]
        return ["systemd-inhibit", *reason, "sleep", "infinity"]
    return None
