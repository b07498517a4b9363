"""Every weight trained in its packed blocks, against dense AdamW and LoRA; and 9B in 16 GB.

    python -m benchmarks full                                # a day on two cores
    python -m benchmarks full --parts quality --ways dense-f32 packed-Q8_0-factored --seeds 1
    python -m benchmarks full --parts nine --layers 4        # a short look

Each run adds to the figures of earlier ones (`benchmarks/results/full-….json`): a part, or a way of
a part, takes the place of its own earlier figures only, and says what it was measured on.

Parts. `quality`: held-out loss along the way, seconds a step, peak memory and the noise that
rounding added, for dense AdamW in f32, packed weights at each keep type with each optimizer, and
LoRA r16 on all linear layers; the same windows of English prose, 4 × 128 tokens a step, the rate of
each searched first. (Q6_K comes in blocks of 256, which the starter's rows do not divide into:
those ways train the wide starter, and are held against dense training of it.) `long`: the same for
the default way and dense on a run ten times as long. `served`: the wide starter trained in Q8_0,
its loss in llama.cpp at Q8_0, and brought to Q4_K_M and Q4_0 by rounding to nearest and by
compensated rounding. `nine`: one real step on a model with gemma2:9b's shapes and random weights,
the process's own memory limited to 16 GB. Each training runs in a process of its own. With
`--keep`, trainings of `quality` and `long` are kept as they end and not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks._full_case import BATCH, WAYS, prose_records, train_case
from benchmarks._measure import earlier_figures, measured_on, trial
from benchmarks._nine import one_step, write_model
from benchmarks._rounding import Kept, interval

PARTS = ("quality", "long", "served", "nine")
FACTORS = (1.0, 4.0, 16.0)
LENGTH = 128
LONGER = 10
WIDE_FACTOR = 1.0  # four times that rate undoes the wide starter
LIMIT_BYTES = 16_000_000_000
FULL_DEPTH = 42
ROUNDING = ("rounding", "rounding_forecast", "rounding_own")  # of a case: root mean squares
DEFAULT_WAY = "packed-Q8_0-factored"
DENSE_WAYS = ("dense-f32", "dense-f32-wide")
LONG_WAYS = ("dense-f32", DEFAULT_WAY)


def main() -> None:
    """Run the parts, or be one training."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--factors", nargs="+", type=float, default=list(FACTORS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=FULL_DEPTH, help="of the 9B shape")
    parser.add_argument("--base-type", default="Q8_0", help="of the 9B shape")
    parser.add_argument("--length", type=int, default=512, help="tokens of the 9B shape's step")
    parser.add_argument("--keep", type=Path, help="file of trainings, not done again")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.be:
        print(json.dumps(be(json.loads(chosen.be))))
        return
    figures = earlier_figures("full")
    with tempfile.TemporaryDirectory(prefix="llamune-full-") as scratch:
        os.environ["LLAMUNE_HOME"] = str(Path(scratch) / "home")
        for part in chosen.parts:
            found = part_figures(part, Path(scratch), chosen)
            figures[part] = joined(figures.get(part), {**found, "measured": measured(chosen)})
    print(json.dumps(figures))


def part_figures(part: str, scratch: Path, chosen: Any) -> dict[str, Any]:
    """Measure one part."""
    if part == "quality":
        return quality(chosen.ways, chosen, steps=chosen.steps)
    if part == "long":
        ways = [way for way in LONG_WAYS if way in chosen.ways]
        return quality(ways, chosen, steps=LONGER * chosen.steps)
    if part == "served":
        return {"rows": served(scratch, chosen)}
    return nine(scratch, chosen)


def joined(earlier: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """Return a part's figures with those ways of an earlier run that this one did not train.

    Ways of runs of another length are left out: they compare with nothing here.
    """
    if earlier is None or "means" not in found:
        return found
    ways, steps = {row["way"] for row in found["means"]}, found["means"][0]["steps"]
    kept = {
        key: [row for row in earlier[key] if row["way"] not in ways and row["steps"] == steps]
        for key in ("cases", "means")
    }
    means = kept["means"] + found["means"]
    return {
        **found,
        "cases": kept["cases"] + found["cases"],
        "means": means,
        "against_dense": against_dense(means),
    }


def measured(chosen: Any) -> dict[str, Any]:
    """Return what a part was measured on and with."""
    return {
        **measured_on(),
        "threads": chosen.threads,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch": BATCH,
        "length": LENGTH,
    }


def be(case: dict[str, Any]) -> dict[str, Any]:
    """Do one training, or one step, in this process."""
    path = Path(case.pop("path"))
    if case.pop("part") == "nine":
        return one_step(path, **case)
    return train_case(path=path, length=LENGTH, **case)


def case_figures(**case: Any) -> dict[str, Any]:
    """Do one training in a process of its own."""
    found = trial("full", "--be", json.dumps(case))
    print(json.dumps({key: found[key] for key in found if key != "curve"}), flush=True)
    return found


def kept_figures(kept: Kept, **case: Any) -> dict[str, Any]:
    """Return the figures of a training that is kept, or do it and delete what it left.

    Checkpoints and result are gigabytes.
    """
    key = {"way": case["name"], **{name: case[name] for name in ("factor", "seed", "steps")}}
    if not kept.has(**key):
        found = trial("full", "--be", json.dumps(case))
        shutil.rmtree(found.pop("run_folder"))
        kept.add({**found, "factor": case["factor"], **measured_on()})
    return kept.row(**key)


def quality(ways: Sequence[str], chosen: Any, *, steps: int) -> dict[str, Any]:
    """Search each way's rate with the first seed, then train with the others."""
    kept = Kept(chosen.keep)
    cases: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    for name in ways:
        path = model_of(name)
        shared = {
            "part": "train", "name": name, "path": str(path), "steps": steps,
            "threads": chosen.threads,
        }  # fmt: skip
        tried = {
            factor: kept_figures(kept, **shared, factor=factor, seed=0) for factor in chosen.factors
        }
        best = min(tried, key=lambda factor: tried[factor]["loss_after"])
        seeds = [tried[best]]
        seeds += [
            kept_figures(kept, **shared, factor=best, seed=seed) for seed in range(1, chosen.seeds)
        ]
        cases += [*tried.values(), *seeds[1:]]
        means.append({**mean_of(name, seeds), "steps": steps})
    return {"cases": cases, "means": means, "against_dense": against_dense(means)}


def model_of(name: str) -> Path:
    """Return the file that a way trains."""
    from benchmarks.wide_starter import make

    from llamune.store import starter

    return make() if WAYS[name].wide else starter.fetch()


def mean_of(name: str, seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a way's means over seeds, with their intervals."""
    row: dict[str, Any] = {"way": name, "model": seeds[0]["model"], "rate": seeds[0]["rate"]}
    for key in ("loss_after", "step_seconds", "peak_bytes"):
        row[key] = interval([one[key] for one in seeds])
    return row | {key: seeds[0][key] for key in ROUNDING if key in seeds[0]}


def against_dense(means: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each way's loss and step time over those of dense AdamW on the same model."""
    dense = {row["model"]: row for row in means if row["way"] in DENSE_WAYS}
    return [
        {
            "way": row["way"],
            "loss": row["loss_after"]["mean"] / dense[row["model"]]["loss_after"]["mean"],
            "step_seconds": row["step_seconds"]["mean"]
            / dense[row["model"]]["step_seconds"]["mean"],
        }
        for row in means
        if row["model"] in dense
    ]


def served(scratch: Path, chosen: Any) -> list[dict[str, Any]]:
    """Train the wide starter in Q8_0, and measure it in llama.cpp at each final type."""
    from benchmarks.wide_starter import make

    from llamune.convert import file_type, plan_quantize, quantize
    from llamune.jobs import opened
    from llamune.jobs.calibrating import compensated_rounding
    from llamune.jobs.merge_measures import HeldOut, few_enough, losses_of, reference_of

    made = case_figures(
        part="train", name=DEFAULT_WAY, path=str(make()), steps=chosen.steps,
        factor=WIDE_FACTOR, seed=0, threads=chosen.threads,
    )  # fmt: skip
    trained = Path(made["run_folder"]) / "trained.gguf"
    rows = []
    with opened(str(trained)) as base:
        kept, held = prose_records(base.file, length=LENGTH)
        few = few_enough(held, base.tokenizer.n_vocab)  # type: ignore[arg-type]  # ids and masks are all it reads
        held_out = HeldOut(records=few, source="held-out prose")
        before = losses_of([make()], held_out, n_threads=1).loss
        reference = reference_of([trained], held_out, n_threads=1)
        rows.append({"type": "Q8_0", "round": "trained", "loss": reference.loss, "kl": 0.0,
                     "before": before})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
        linear = {rule.gguf for rule in base.family.rules.values() if rule.role == "linear"}
        for kind in ("Q4_K_M", "Q4_0"):
            plan = plan_quantize(base.file, file_type(kind))
            for name in ("nearest", "compensated"):
                rounding = None
                if name == "compensated":
                    rounding = compensated_rounding(
                        base,
                        [window.ids for window in kept],
                        types={one: plan.types[one] for one in plan.changed if one in linear},
                        weight_of=base.file.floats,
                        identity={"trained": str(trained)},
                    )
                out = scratch / "served.gguf"
                quantize(plan, out, round=rounding, requantize=True, replace=True)
                found = losses_of([out], held_out, reference=reference, n_threads=1)
                rows.append({"type": kind, "round": name, "loss": found.loss, "kl": found.kl})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def nine(scratch: Path, chosen: Any) -> dict[str, Any]:
    """Make one step on the 9B shape within 16 GB."""
    path = scratch / "nine.gguf"
    write_model(path, n_layer=chosen.layers, kind=chosen.base_type)
    return case_figures(
        part="nine", path=str(path), limit_bytes=LIMIT_BYTES, length=chosen.length,
        optimizer="factored", threads=chosen.threads,
    )  # fmt: skip


if __name__ == "__main__":
    main()
