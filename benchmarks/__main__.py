"""Run comparisons and keep their figures with the hardware they were measured on.

    python -m benchmarks                 # all of them
    python -m benchmarks load tokenize   # some
    python -m benchmarks --list

Each script prints its trials and ends with one line of JSON; that line goes into
`benchmarks/results/<script>-<instruction set>.json`, with processor, versions, commit and date.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from benchmarks._measure import commit, instruction_set, processor

from llamune.cli._main import KERNELS_KEPT, SPINS, others_run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LIBRARIES = ("llamune", "torch", "transformers", "peft", "xllamacpp", "libggml-python", "gguf")
NOT_COMPARISONS = ("wide_starter",)


def main() -> None:
    """Run what was asked for; exit with 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="scripts of this folder; default: all")
    parser.add_argument("--list", action="store_true", help="list them and stop")
    chosen, options = parser.parse_known_args()
    names = chosen.names or comparisons()
    if chosen.list:
        print("\n".join(comparisons()))
        return
    # stopped from outside, it must still take away what its scripts have on disk: up to 28 GB
    # (scripts are told by SIGINT, which a shell has ignored for what it starts in the background)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = [name for name in names if not run(name, options)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def comparisons() -> list[str]:
    """Return the names of the scripts that compare something."""
    found = (path.stem for path in HERE.glob("[a-z]*.py"))
    return sorted(name for name in found if name not in NOT_COMPARISONS)


def run(name: str, options: list[str]) -> bool:
    """Run one script, its output as it comes, and keep its figures."""
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    as_in_the_program = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": KERNELS_KEPT}
    if others_run():
        as_in_the_program["GOMP_SPINCOUNT"] = SPINS
    process = subprocess.Popen(
        command,
        cwd=HERE.parent,
        env={**as_in_the_program, **os.environ},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    last = ""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if process.wait():
        return False
    kept = {"machine": machine(), "command": ["python", *command[1:]], "figures": json.loads(last)}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{instruction_set()}.json"
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"-> {path.relative_to(HERE.parent)}", flush=True)
    return True


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "processor": processor(),
        "cores": psutil.cpu_count(logical=False),
        "instruction_set": instruction_set(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := installed(name))},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def installed(name: str) -> str | None:
    """Return a library's version, None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
