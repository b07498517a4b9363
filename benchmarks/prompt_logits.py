"""Whole next-token distributions of a prompt: the C interface against the server's JSON.

    python -m benchmarks.prompt_logits                     # 1,000 positions of the starter
    python -m benchmarks.prompt_logits --positions 100 --json-positions 2

The result is asserted: both ways give the same distributions. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from llamune.engine import prompt_logits
from llamune.engine.slow_logits import json_logits
from llamune.evaluate import agreement
from llamune.store import starter

LENGTH = 100
MAX_KL = 1e-3


def main() -> None:
    """Time both ways and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--positions", type=int, default=1000)
    parser.add_argument("--json-positions", type=int, default=5)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    path = starter.fetch()
    random = np.random.default_rng(0)
    n_sequences = max(1, options.positions // LENGTH)
    sequences = random.integers(0, 49_152, (n_sequences, LENGTH)).tolist()
    trials = []
    for number in range(options.trials + 1):  # the first warms the file cache up
        start = time.perf_counter()
        for _ in prompt_logits(path, sequences, n_threads=options.threads):
            pass
        seconds = time.perf_counter() - start
        print(f"trial {number}: {n_sequences * LENGTH} positions in {seconds:.2f} s", flush=True)
        trials.append(seconds)
    short = [sequences[0][: options.json_positions]]
    start = time.perf_counter()
    (slow,) = json_logits(path, short, n_threads=options.threads)
    json_seconds = time.perf_counter() - start
    (fast,) = prompt_logits(path, short, n_threads=options.threads)
    found = agreement([(fast, slow)])
    assert found.mean_kl < MAX_KL, found
    best = min(trials[1:])
    figures = {
        "positions": n_sequences * LENGTH,
        "seconds": round(best, 3),
        "trials": [round(seconds, 3) for seconds in trials[1:]],
        "seconds_per_1000": round(1000 * best / (n_sequences * LENGTH), 3),
        "json_seconds_per_position": round(json_seconds / options.json_positions, 3),
        "threads": options.threads,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
