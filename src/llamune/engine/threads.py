"""How many threads llama.cpp gets."""

from __future__ import annotations

import os

__all__ = ["default_threads"]


def default_threads() -> int:
    """Return the number of CPU threads for inference: `OMP_NUM_THREADS`, or one a physical core.

    More threads than cores make llama.cpp slower by orders of magnitude: its workers spin while
    they wait.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    import psutil

    return psutil.cpu_count(logical=False) or 1
