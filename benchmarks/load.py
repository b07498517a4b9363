"""How fast a model is ready to train, and in how much private memory, against transformers.

    python -m benchmarks.load                     # 5 trials of each
    python -m benchmarks.load --trials 1 --quick  # without transformers

On the starter model, tokenizer included. Each trial is a process of its own that has imported the
same libraries first; seconds and private bytes (USS; resident bytes where the system has no count)
are those of loading alone. Both models' logits on one prompt are compared. Prints every trial and
ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._measure import measured_on, timed, trial

AIM_SECONDS = 2.0
AIM_PRIVATE_BYTES = 150e6
PROMPT = [1, 4093, 198, 19556, 28, 638, 346, 260, 3714, 47]


def main() -> None:
    """Run the trials and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="without transformers")
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        print(json.dumps(measure(chosen.worker, chosen.file)))
        return
    from llamune.store import starter

    path = starter.fetch()
    names = ["ours"] if chosen.quick else sorted(WORKERS)
    results = {name: [printed_trial(name, path) for _ in range(chosen.trials)] for name in names}
    print(json.dumps(summary(results)))


def printed_trial(name: str, path: Path) -> dict[str, Any]:
    """Run one trial in a process of its own and print it."""
    found = trial("load", "--worker", name, "--file", path)
    megabytes = found["private_bytes"] / 1e6
    print(f"{name:>12}: {found['seconds']:.2f} s, {megabytes:.0f} MB private", flush=True)
    return found


def measure(name: str, path: Path) -> dict[str, Any]:
    """Load once and return what it took."""
    import torch

    # imported before the clock starts; transformers brings a family's code in when it is named
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401

    import llamune.nn
    import llamune.text  # noqa: F401

    before = private_bytes()
    model, seconds = timed(lambda: WORKERS[name](path))
    private = private_bytes() - before
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0, -1].float()
    return {"seconds": seconds, "private_bytes": private, "best": logits.topk(3).indices.tolist()}


def ours(path: Path) -> Any:
    """Load with llamune: weights packed and mapped."""
    import torch

    from llamune.gguf import ModelFile
    from llamune.nn import load
    from llamune.text import tokenizer_of

    file = ModelFile.open(path)
    tokenizer_of(file).encode("one sentence")
    return load(file, device="cpu", dtype=torch.float32)


def theirs(path: Path) -> Any:
    """Load with transformers, which unpacks every weight."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)("one sentence")
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    return model.eval()


WORKERS = {"ours": ours, "transformers": theirs}


def private_bytes() -> int:
    """Return the memory that belongs to this process alone."""
    import psutil

    info = psutil.Process().memory_full_info()
    return int(getattr(info, "uss", info.rss))


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the medians, held against the aims; the models must agree."""
    answers = {tuple(one["best"]) for trials in results.values() for one in trials}
    assert len(answers) == 1, f"the loaded models disagree: {answers}"
    medians = {
        name: {key: median(one[key] for one in trials) for key in ("seconds", "private_bytes")}
        for name, trials in results.items()
    }
    own = medians["ours"]
    return {
        "benchmark": "load",
        **measured_on(),
        "trials": len(results["ours"]),
        **medians,
        "aims": {"seconds": AIM_SECONDS, "private_bytes": AIM_PRIVATE_BYTES},
        "met": own["seconds"] < AIM_SECONDS and own["private_bytes"] < AIM_PRIVATE_BYTES,
    }


if __name__ == "__main__":
    main()
