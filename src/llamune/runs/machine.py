"""What this machine measured of itself: compute types, matrix products, training speeds.

Kept in `$LLAMUNE_HOME/machine.json`: topic → key → facts. A home that moves to another machine
(a disk, a shared folder) holds facts of both: each machine reads its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from llamune.files import write_text
from llamune.store import home

__all__ = [
    "DEVICE_VARIABLE",
    "facts",
    "fingerprint",
    "machine_path",
    "processor",
    "recall",
    "remember",
]

DEVICE_VARIABLE = "LLAMUNE_DEVICE"  # names the device to compute on, for this machine's commands


def machine_path() -> Path:
    """Return the file of measured facts."""
    return home() / "machine.json"


@cache
def processor() -> str:
    """Return the name of the processor, as the system says it."""
    if platform.system() == "Linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def instruction_sets() -> str:
    """Return the processor's feature flags: virtual machines of one name differ in them."""
    if platform.system() == "Linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line.partition(":")[2].strip()
    return ""


def fingerprint() -> str:
    """Return 16 hex digits that say which machine this is, as far as speed goes."""
    parts = (
        platform.system(),
        platform.machine(),
        processor(),
        instruction_sets(),
        str(os.cpu_count()),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def recall(topic: str, key: str) -> dict[str, Any] | None:
    """Return what was measured on this machine, or None.

    Args:
        topic: what kind of fact, such as `compute` or `training`.
        key: of what: device, shapes, library version.
    """
    return facts(topic).get(key)


def facts(topic: str) -> dict[str, dict[str, Any]]:
    """Return every fact of a topic that was measured on this machine, by its key."""
    known = read().get(fingerprint(), {}).get(topic, {})
    return {key: dict(value) for key, value in known.items()}


def remember(topic: str, key: str, measured: Mapping[str, Any]) -> None:
    """Keep what was measured on this machine, in place of what was known of `key`."""
    known = read()
    known.setdefault(fingerprint(), {}).setdefault(topic, {})[key] = dict(measured)
    machine_path().parent.mkdir(parents=True, exist_ok=True)
    write_text(machine_path(), json.dumps(known, indent=2, sort_keys=True) + "\n", replace=True)


def read() -> dict[str, Any]:
    """Return all facts; a damaged file counts as empty, since it can be measured again."""
    try:
        known = json.loads(machine_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
