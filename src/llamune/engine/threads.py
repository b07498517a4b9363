"""How many threads llama.cpp gets."""

from __future__ import annotations

import os

__all__ = ["default_threads"]

LOOK_SECONDS = 0.04


def default_threads() -> int:
    """Return the number of CPU threads for inference: `OMP_NUM_THREADS`, or the idle cores.

    llama.cpp's workers spin while they wait for each other. With more of them than there are idle
    cores a token takes seconds where it took milliseconds, so that on a busy machine fewer threads
    are faster by orders of magnitude.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    import psutil

    n_cores = psutil.cpu_count(logical=False) or 1
    busy = psutil.cpu_percent(interval=LOOK_SECONDS) / 100
    return max(1, round(n_cores * (1 - busy)))
