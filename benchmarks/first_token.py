"""From pressing Enter to the first token: `llamune run` on the starter in a fresh process.

    python -m benchmarks.first_token
    python -m benchmarks.first_token --trials 3

Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from llamune.store import starter

QUESTION = "What is the capital of Japan?"


def first_token_seconds(path: str) -> float:
    """Start the program and return when its first byte of an answer arrives."""
    code = "import sys; from llamune.cli import main; sys.argv = ['llamune', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, "run", path, QUESTION, "--temperature", "0"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - start
    rest = process.stdout.read()
    assert process.wait() == 0
    assert b"Tokyo" in first + rest
    return seconds


def main() -> None:
    """Time fresh processes and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=7)
    options = parser.parse_args()
    path = str(starter.fetch())
    trials = []
    for number in range(options.trials + 1):  # the first warms the file cache up
        seconds = first_token_seconds(path)
        print(f"trial {number}: {seconds:.2f} s", flush=True)
        trials.append(seconds)
    kept = trials[1:]
    figures = {
        "median_seconds": round(statistics.median(kept), 3),
        "worst_seconds": round(max(kept), 3),
        "trials": [round(seconds, 3) for seconds in kept],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
