"""Building a tokenizer and using it, against transformers' own GGUF tokenizer and llama.cpp.

    python -m benchmarks.tokenize                       # the starter model and Gemma 4
    python -m benchmarks.tokenize a.gguf b.gguf         # vocabularies of your own
    python -m benchmarks.tokenize --megabytes 20

The texts are this project's own English and Japanese files, repeated. Each tokenizer is built and
run in this process on one thread; llama.cpp is loaded with the vocabulary only. llamune's is built
three times: with nothing kept, from the user's cache as a new process would, and from what this
process remembers. The ids of all are asserted to be the same; transformers, whose GGUF tokenizer is
an approximation for some families, is only counted. Gemma 4's vocabulary of 262,144 tokens comes
out of the source package of `llama-cpp-python`. Ends with one JSON line.
"""

# ruff: noqa: A005  run as `python -m benchmarks.tokenize`, it hides nothing

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parents[1]
N_TRIALS = 3
CHUNK = 2_000  # characters of one text


def texts(n_bytes: int) -> list[str]:
    """Return the project's own files in pieces, as much as is asked for."""
    files = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py"), *ROOT.glob("examples/*.json*")]
    whole = "".join(path.read_text(encoding="utf-8") for path in sorted(files))
    pieces = [whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)]
    found: list[str] = []
    size = 0
    while size < n_bytes:
        piece = pieces[len(found) % len(pieces)]
        found.append(piece)
        size += len(piece.encode())
    return found


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that one call takes, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def ours(path: Path) -> tuple[dict[str, float], Callable[[str], list[int]]]:
    """Build llamune's tokenizer, then build it again from what is kept."""
    from llamune.gguf import ModelFile
    from llamune.text import tokenizer_of
    from llamune.text.tokenizer import KEPT

    def build() -> Any:
        with ModelFile.open(path) as file:
            tokenizer = tokenizer_of(file)
        tokenizer.encode("warm")
        return tokenizer

    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, LLAMUNE_CACHE=cache):
        KEPT.clear()
        first, _ = timed(build)
        KEPT.clear()
        from_cache, _ = timed(build)
        again, tokenizer = timed(build)
    return {"first": first, "from_cache": from_cache, "again": again}, tokenizer.encode


def llama_cpp(path: Path) -> tuple[dict[str, float], Callable[[str], list[int]]]:
    """Load llama.cpp's vocabulary."""
    from tests.text.oracle import Oracle

    first, judge = timed(lambda: Oracle(path))
    return {"first": first}, judge.encode


def transformers(path: Path) -> tuple[dict[str, float], Callable[[str], list[int]]]:
    """Build transformers' tokenizer from the GGUF file."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    try:
        first, tokenizer = timed(
            lambda: AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        )
    except StrictDataclassError as error:
        raise ValueError(f"the model's config: {error}") from error
    return {"first": first}, lambda text: tokenizer.encode(text, add_special_tokens=False)


def encoded(encode: Callable[[str], list[int]], pieces: list[str]) -> list[list[int]]:
    """Return the ids of each piece."""
    return [encode(piece) for piece in pieces]


TOKENIZERS = {"llamune": ours, "llama.cpp": llama_cpp, "transformers": transformers}


def measure(path: Path, pieces: list[str]) -> dict[str, Any]:
    """Return what each tokenizer takes to build, how fast it is, and whether the ids agree."""
    found: dict[str, Any] = {"file": path.name}
    expected: list[list[int]] | None = None
    for name, build in TOKENIZERS.items():
        try:
            seconds_to_build, encode = build(path)
        except (ImportError, ValueError, OSError, KeyError, TypeError) as error:
            found[name] = {"refused": f"{type(error).__name__}: {error}"[:200]}
            print(f"{path.name} {name}: refused ({found[name]['refused']})")
            continue
        trials = []
        for _ in range(N_TRIALS):
            seconds, ids = timed(partial(encoded, encode, pieces))
            trials.append(seconds)
        n_tokens = sum(map(len, ids))
        expected = expected or ids
        same = sum(one == other for one, other in zip(ids, expected, strict=True))
        rate = n_tokens / min(trials)
        cold = n_tokens / trials[0]  # llamune remembers words: only the first trial is without
        print(
            f"{path.name} {name}: built in "
            + ", ".join(f"{kind} {value:.3f} s" for kind, value in seconds_to_build.items())
            + f"; {cold:,.0f} tokens/s at first, {rate:,.0f} at best, trials of "
            + ", ".join(f"{one:.2f} s" for one in trials)
            + f"; {same} of {len(ids)} texts with the same ids"
        )
        if name == "llama.cpp":
            assert same == len(ids), "llamune's ids differ from llama.cpp's"
        found[name] = {
            "seconds_to_build": seconds_to_build,
            "tokens_per_second_first": cold,
            "tokens_per_second_best": rate,
            "seconds_of_trials": trials,
            "same_ids": same == len(ids),
        }
    return found


def main() -> None:
    """Measure every file and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="GGUF files; default two vocabularies")
    parser.add_argument("--megabytes", type=float, default=5.0, help="text to tokenize")
    chosen = parser.parse_args()
    files = chosen.files
    if not files:
        from tests.text.published import models

        from llamune.store import starter

        files = [starter.fetch(), models() / "ggml-vocab-gemma-4.gguf"]
    pieces = texts(round(chosen.megabytes * 1e6))
    results = [measure(path, pieces) for path in files]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    ).stdout.strip()
    print(
        json.dumps(
            {
                "benchmark": "tokenize",
                "megabytes": chosen.megabytes,
                "results": results,
                "commit": commit,
                "machine": platform.processor() or platform.machine(),
                "n_cpu": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
