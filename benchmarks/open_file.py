"""How fast a model file opens, and in how much memory, against gguf-py and transformers.

    python -m benchmarks.open_file              # 5 trials of each
    python -m benchmarks.open_file --trials 1 --quick   # without transformers

Two files: the starter model, and a made-up one with a vocabulary of 256,000 tokens. Each trial is
a process of its own: seconds are those of the opening alone, libraries imported before; the peak
is the whole process's. What was read is asserted. Prints every trial and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks._measure import measured_on, peak_resident_bytes, timed, trial

from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf
from llamune.store import starter

N_TOKENS = 256_000
WIDTH, D_FF, N_LAYER = 64, 128, 2
AIM_TIMES_FASTER = 100
AIM_INSPECT_SECONDS = 0.5


def write_large_vocabulary(path: Path, starter_path: Path) -> None:
    """Write a llama model with few weights and a byte-pair vocabulary of 256,000 tokens."""
    chance = random.Random(0)
    with ModelFile.open(starter_path) as file:
        keys = {key: file.metadata.entry(key) for key in file.metadata}
        letters = [
            token for token in file.metadata.strings("tokenizer.ggml.tokens") if len(token) == 1
        ]
    tokens = list(dict.fromkeys(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters]))
    known, merges = set(tokens), []
    while len(tokens) < N_TOKENS:
        left, right = (tokens[chance.randrange(3, len(tokens))] for _ in range(2))
        if left + right not in known and len(left + right) <= 24:
            merges.append(f"{left} {right}")
            tokens.append(left + right)
            known.add(left + right)
    keys |= {
        "general.name": Entry.of("large vocabulary"),
        "general.file_type": Entry.of(0),
        "llama.block_count": Entry.of(N_LAYER),
        "llama.embedding_length": Entry.of(WIDTH),
        "llama.feed_forward_length": Entry.of(D_FF),
        "llama.attention.head_count": Entry.of(1),
        "llama.attention.head_count_kv": Entry.of(1),
        "llama.vocab_size": Entry.of(N_TOKENS),
        "tokenizer.ggml.tokens": Entry.of(tokens),
        "tokenizer.ggml.token_type": Entry.of(np.full(N_TOKENS, 1, np.int32)),
        "tokenizer.ggml.merges": Entry.of(merges),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (N_TOKENS, WIDTH), "output_norm": (WIDTH,)}
    for block in range(N_LAYER):
        square = {f"blk.{block}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        norms = {f"blk.{block}.{part}_norm": (WIDTH,) for part in ("attn", "ffn")}
        wide = {f"blk.{block}.ffn_{part}": (D_FF, WIDTH) for part in ("gate", "up")}
        shapes |= {**square, **norms, **wide, f"blk.{block}.ffn_down": (WIDTH, D_FF)}
    tensors = [
        NewTensor(f"{name}.weight", shape, quant_type("F32"), partial(ones, shape))
        for name, shape in shapes.items()
    ]
    write_gguf(path, metadata=keys, tensors=tensors)


def ones(shape: tuple[int, ...]) -> list[Any]:
    """Return a tensor of ones as the chunks that a file is written from."""
    return [np.ones(shape, "<f4")]


def open_ours(path: Path) -> dict[str, object]:
    """Open and check the file: header and tensor table."""
    file, seconds = timed(lambda: ModelFile.open(path))
    with file:
        n_tokens = file.metadata.length("tokenizer.ggml.tokens")
        return {"seconds": seconds, "n_tensors": len(file.tensors), "n_tokens": n_tokens}


def vocabulary_ours(path: Path) -> dict[str, object]:
    """Open the file and read every token and merge."""

    def work() -> tuple[int, int]:
        with ModelFile.open(path) as file:
            tokens = file.metadata.strings("tokenizer.ggml.tokens")
            file.metadata.strings("tokenizer.ggml.merges")
            return len(file.tensors), len(tokens)

    (n_tensors, n_tokens), seconds = timed(work)
    return {"seconds": seconds, "n_tensors": n_tensors, "n_tokens": n_tokens}


def open_gguf_py(path: Path) -> dict[str, object]:
    """Open the file with gguf-py, which reads everything at once."""
    from gguf import GGUFReader

    reader, seconds = timed(lambda: GGUFReader(path))
    n_tokens = len(reader.fields["tokenizer.ggml.tokens"].data)
    return {"seconds": seconds, "n_tensors": len(reader.tensors), "n_tokens": n_tokens}


def tokenizer_ours(path: Path) -> dict[str, object]:
    """Build our tokenizer from the file."""
    from llamune.text import tokenizer_of

    def work() -> tuple[int, int]:
        with ModelFile.open(path) as file:
            tokenizer = tokenizer_of(file)
            tokenizer.encode("one sentence")
            return len(file.tensors), tokenizer.n_vocab

    (n_tensors, n_tokens), seconds = timed(work)
    return {"seconds": seconds, "n_tensors": n_tensors, "n_tokens": n_tokens}


def tokenizer_transformers(path: Path) -> dict[str, object]:
    """Build transformers' tokenizer from the file."""
    from transformers import AutoTokenizer

    def work() -> int:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer("one sentence")
        return len(tokenizer)

    n_tokens, seconds = timed(work)
    return {"seconds": seconds, "n_tokens": n_tokens}


def model_ours(path: Path) -> dict[str, object]:
    """Build the model for training: weights packed and mapped."""
    from llamune.nn import load

    model, seconds = timed(lambda: load(ModelFile.open(path)))
    return {"seconds": seconds, "model": type(model).__name__}


def model_transformers(path: Path) -> dict[str, object]:
    """Build transformers' model from the file: every weight unpacked."""
    from transformers import AutoModelForCausalLM

    model, seconds = timed(
        lambda: AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    )
    return {"seconds": seconds, "model": type(model).__name__}


def inspect(path: Path) -> dict[str, object]:
    """Run `llamune inspect` as a process of its own."""
    command = [str(Path(sys.executable).with_name("llamune")), "inspect", str(path)]
    done, seconds = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    return {"seconds": seconds, "n_characters": len(done.stdout)}


WORKERS = {
    work.__name__: work
    for work in (
        open_ours,
        vocabulary_ours,
        open_gguf_py,
        tokenizer_ours,
        tokenizer_transformers,
        model_ours,
        model_transformers,
        inspect,
    )
}
HEAVY = {"tokenizer_transformers", "model_ours", "model_transformers"}


def run_worker(name: str, path: Path) -> None:
    """Do one trial and print its figures."""
    result = WORKERS[name](path)
    peak_bytes = peak_resident_bytes(of_children=name == "inspect")
    print(json.dumps({**result, "peak_bytes": peak_bytes}))


def main() -> None:
    """Run all trials and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="leave transformers and torch out")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        run_worker(chosen.worker, chosen.file)
        return
    names = [name for name in WORKERS if not (chosen.quick and name in HEAVY)]
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "starter.gguf", Path(folder) / "large-vocabulary.gguf"
        shutil.copyfile(starter.fetch(), small)
        write_large_vocabulary(large, small)
        for path, n_tokens in ((small, 49_152), (large, N_TOKENS)):
            results[path.stem] = {}
            for name in names:
                command: list[str | Path] = ["--worker", name, "--file", path]
                trials = [trial("open_file", *command) for _ in range(chosen.trials)]
                for one in trials:
                    assert one.get("n_tokens", n_tokens) == n_tokens, (name, one)
                seconds = [one["seconds"] for one in trials]
                peak = max(one["peak_bytes"] for one in trials)
                shown = " ".join(f"{value:.4f}" for value in seconds)
                print(f"{path.stem:<17} {name:<23} {peak / 1e6:>7.0f} MB  {shown} s", flush=True)
                results[path.stem][name] = {"seconds": median(seconds), "peak_bytes": peak}
    print(json.dumps(summary(results, chosen.trials)))


def summary(results: dict[str, dict[str, dict[str, float]]], n_trials: int) -> dict[str, object]:
    """Return the last line: medians, and how they stand to the aims."""
    faster = {
        name: found["open_gguf_py"]["seconds"] / found["open_ours"]["seconds"]
        for name, found in results.items()
    }
    return {
        "benchmark": "open_file",
        **measured_on(),
        "n_trials": n_trials,
        "results": results,
        "times_faster_than_gguf_py": faster,
        "aim_times_faster": AIM_TIMES_FASTER,
        "inspect_seconds": {name: found["inspect"]["seconds"] for name, found in results.items()},
        "aim_inspect_seconds": AIM_INSPECT_SECONDS,
    }


if __name__ == "__main__":
    main()
