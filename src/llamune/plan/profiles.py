"""Devices and prices as dated data, which a person can extend under `$LLAMUNE_HOME`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from llamune.errors import LlamuneError
from llamune.plan.machines import Accelerator, Machine, bytes_of, unified_share
from llamune.store import home

__all__ = ["CloudPrice", "Electricity", "Profile", "cloud_prices", "device_machine", "electricity",
           "known_device", "machine_of_memory", "profiles"]  # fmt: skip

MEMORY_ENDING = re.compile(r"\s+(\d+(?:\.\d+)?\s*(?:gib|gb))\s*$", re.IGNORECASE)
HOST_BYTES = 32 << 30  # RAM beside a discrete GPU, where nothing else is said


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A device.

    Args:
        name: as its maker calls it.
        kind: `mps`, `cuda` or `rocm`.
        tflops: peak of matrix products, 10^12 operations a second.
        bandwidth: bytes a second.
        link: bytes a second from RAM to a GPU with memory of its own, or None.
        memory_bytes: its smallest size on sale (Apple), or its memory.
        watts: under full load, or None.
        source: file and date of the figures.
    """

    name: str
    kind: str
    tflops: float
    bandwidth: float
    link: float | None
    memory_bytes: int
    watts: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class CloudPrice:
    """What an hour with a device costs."""

    name: str
    device: str
    usd_per_hour: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Electricity:
    """What a kilowatt-hour costs."""

    currency: str
    per_kwh: float
    source: str


def tables(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the built-in file of that name, then the person's own; each with where it stands.

    Raises:
        LlamuneError: a person's file is no TOML.
    """
    built_in = resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    yield f"{name}.toml", tomllib.loads(built_in)
    own = [home() / f"{name}.toml", *sorted((home() / name).glob("*.toml"))]
    for path in filter(Path.is_file, own):
        try:
            yield str(path), tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise LlamuneError(f"{path}: not a TOML file: {error}") from error


def profiles() -> dict[str, Profile]:
    """Return all devices by their name in lower case.

    Raises:
        LlamuneError: a person's file lacks a key or has one that is not known.
    """
    found: dict[str, Profile] = {}
    for where, table in tables("devices"):
        for entry in table.get("devices", []):
            try:
                profile = Profile(
                    name=entry["name"],
                    kind=entry["kind"],
                    tflops=float(entry["tflops"]),
                    bandwidth=float(entry["bandwidth_gb_s"]) * 1e9,
                    link=entry["link_gb_s"] * 1e9 if "link_gb_s" in entry else None,
                    memory_bytes=int(entry["memory_gib"] * (1 << 30)),
                    watts=entry.get("watts"),
                    source=f"{where}, {table.get('date', 'no date')}",
                )
            except (KeyError, TypeError, ValueError) as error:
                raise LlamuneError(f"{where}: a device lacks or has a wrong {error}") from error
            found[profile.name.lower()] = profile
    return found


def cloud_prices() -> list[CloudPrice]:
    """Return the prices of cloud machines; a person's own come last and win by name."""
    found = {
        entry["name"]: CloudPrice(
            name=entry["name"],
            device=entry["device"],
            usd_per_hour=float(entry["usd_per_hour"]),
            source=f"{entry.get('source', where)}, {table.get('date', 'no date')}",
        )
        for where, table in tables("prices")
        for entry in table.get("cloud", [])
    }
    return list(found.values())


def electricity() -> Electricity:
    """Return the price of electricity; a person's own wins."""
    last = [(where, table) for where, table in tables("prices") if "electricity" in table][-1]
    where, table = last
    entry = table["electricity"]
    source = f"{entry.get('source', where)}, {table.get('date', 'no date')}"
    return Electricity(currency=entry["currency"], per_kwh=float(entry["per_kwh"]), source=source)


def known_device(text: str) -> Profile:
    """Return the profile of a device, by its name in any case and with any maker in front.

    Raises:
        LlamuneError: there is none of that name.
    """
    every = profiles()
    wanted = " ".join(text.lower().split())
    for prefix in ("apple ", "nvidia ", "geforce ", "nvidia geforce "):
        wanted = wanted.removeprefix(prefix)
    fitting = [name for name in every if name in {wanted, f"rtx {wanted}"}]
    if not fitting:
        raise LlamuneError(
            f"device {text!r} is not known",
            hint=f"known: {', '.join(profile.name for profile in every.values())}; "
            f"add your own in {home() / 'devices'}",
        )
    return every[fitting[0]]


def device_machine(text: str, *, host_memory: int | None = None) -> Machine:
    """Return the machine that a person describes, such as `M1 Max 32GB` or `RTX 4090`.

    Args:
        text: a device, maybe with its memory.
        host_memory: bytes of RAM beside a GPU with memory of its own.

    Raises:
        LlamuneError: the device is not known.
    """
    ending = MEMORY_ENDING.search(text)
    name = text
    memory = None
    if ending and text.lower() not in profiles():
        name, memory = text[: ending.start()], bytes_of(ending[1])
    profile = known_device(name)
    size = memory or profile.memory_bytes
    unified = profile.kind == "mps"
    return Machine(
        name=f"{profile.name}, {size >> 30} GB",
        memory_bytes=size if unified else host_memory or HOST_BYTES,
        accelerator=Accelerator(
            name=profile.name,
            kind=profile.kind,
            memory_bytes=unified_share(size) if unified else size,
        ),
        bandwidth=profile.bandwidth,
        link_bandwidth=profile.link,
        peak_gflops=profile.tflops * 1000,
        watts=profile.watts,
        source=profile.source,
    )


def machine_of_memory(nbytes: int) -> Machine:
    """Return a machine of which only the memory is known."""
    return Machine(
        name=f"a machine with {nbytes / (1 << 30):g} GB",
        memory_bytes=nbytes,
        source="its memory alone",
    )
