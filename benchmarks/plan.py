"""How right the plan is: predicted against measured peak memory, time, and llama.cpp's buffers.

    python -m benchmarks.plan                  # memory and time, about 20 minutes on two cores
    python -m benchmarks.plan --memory-only    # a busy machine does not disturb it
    python -m benchmarks.plan --only gemma2    # cases whose name has this in it; the others as kept
    python -m benchmarks.plan --again          # what was measured before, against today's plan
    python -m benchmarks.plan --draw FIGURES.json PLOT.svg

Each training case is a process of its own: load, attach, steps as `tune` makes them; the peak is
the kernel's high-water mark of the resident set. Time is predicted after the calibration that
`plan --calibrate` makes. llama.cpp's buffers are those that it reports itself. Beside it stand
`accelerate estimate-memory` and gguf-parser's rules. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._measure import earlier_figures
from benchmarks._plan_models import models
from benchmarks._plan_rules import accelerate_bytes, gguf_parser_compute_bytes

from llamune.arch import describe
from llamune.gguf import ModelFile
from llamune.plan import (
    Plan,
    Settings,
    Shape,
    Work,
    cache_bytes,
    compute_bytes,
    plan_settings,
    shape_of,
)

AIM_MEDIAN, AIM_WORST, AIM_BUFFERS, AIM_TIME = 0.05, 0.10, 0.02, 0.15
CONTEXTS = (512, 2048, 4096, 8192)
FACTS = "machine.json"  # of a home: what was measured on the machine
MEASURED = ("measured_bytes", "accounted_bytes", "compute_type", "measured_seconds")
MEMORY_STEPS, TIME_STEPS, VARIED_STEPS = 2, 4, 12


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training to predict and to measure."""

    model: str
    path: Path
    settings: Settings
    varied: bool = False  # records of many lengths, up to the longest that the plan supposes

    @property
    def name(self) -> str:
        """The case in a few words."""
        settings = self.settings
        parts = [self.model, settings.kind]
        if settings.is_adapter:
            parts += [f"r{settings.rank}", str(settings.targets)]
        elif settings.is_packed:
            parts += [settings.keep_type, settings.optimizer]
        else:
            parts.append(settings.weight_type)
        up_to = "<=" if self.varied else ""
        parts.append(f"{settings.micro_batch}x{up_to}{settings.length}")
        parts += [word for word in FLAGS if getattr(settings, word)]
        if settings.trained_share < 1:
            parts.append(f"{settings.trained_share:.0%} trained")
        return " ".join(parts)


FLAGS = ("recompute", "dropout", "compiled")
USUAL = Settings(compiled=False)
FULL = replace(USUAL, method="full")
DENSE = replace(FULL, dense=True, optimizer="adamw_torch")
STARTER_CASES = [
    *(
        replace(USUAL, rank=rank, micro_batch=batch, length=length)
        for rank in (8, 64)
        for batch, length in ((1, 128), (1, 512), (4, 128), (1, 1024))
    ),
    replace(USUAL, micro_batch=4, length=256),
    replace(USUAL, micro_batch=1, length=512, targets="attention"),
    replace(USUAL, micro_batch=1, length=512, targets="mlp"),
    replace(USUAL, micro_batch=1, length=512, method="dora"),
    replace(USUAL, micro_batch=1, length=512, dropout=True),
    replace(USUAL, micro_batch=1, length=512, trained_share=0.1),
    replace(USUAL, micro_batch=1, length=512, recompute=True),
    replace(USUAL, micro_batch=4, length=256, recompute=True),
    replace(USUAL, micro_batch=1, length=512, compiled=True),
    replace(USUAL, micro_batch=2, length=256, compiled=True),
    replace(FULL, micro_batch=1, length=512),
    replace(FULL, micro_batch=4, length=128),
    replace(FULL, micro_batch=4, length=256),
    replace(FULL, micro_batch=4, length=128, optimizer="adamw8"),
    replace(FULL, micro_batch=4, length=128, keep_type="BF16"),
    replace(FULL, micro_batch=1, length=512, recompute=True),
    replace(DENSE, micro_batch=4, length=128),
    replace(DENSE, micro_batch=4, length=128, weight_type="bfloat16"),
]
VARIED_CASES = [
    replace(USUAL, micro_batch=4, length=256),
    replace(FULL, micro_batch=4, length=256),
]
OTHER_CASES = [
    replace(USUAL, rank=16, micro_batch=1, length=256),
    replace(USUAL, rank=64, micro_batch=2, length=512),
    replace(USUAL, rank=16, micro_batch=1, length=1024, recompute=True),
    replace(FULL, micro_batch=1, length=256),
]
QUICK_CASES = [
    replace(USUAL, rank=8, micro_batch=1, length=64),
    replace(USUAL, rank=32, micro_batch=2, length=128, targets="attention"),
]


def cases(paths: dict[str, Path], *, quick: bool, only: str) -> Iterator[Case]:
    """Yield the training cases."""
    for model, path in paths.items():
        with ModelFile.open(path, mapped=False) as file:
            context = describe(file).sizes.context_length
        for settings, varied in settings_of(model, quick=quick):
            case = Case(model=model, path=path, settings=settings, varied=varied)
            if settings.length <= context and only in case.name:
                yield case


def settings_of(model: str, *, quick: bool) -> list[tuple[Settings, bool]]:
    """Return what a model is trained with, and whether its records vary in length."""
    if quick:
        return [(settings, False) for settings in QUICK_CASES]
    if not model.startswith("starter"):
        return [(settings, False) for settings in OTHER_CASES]
    fixed = [(settings, False) for settings in STARTER_CASES]
    return fixed + [(settings, True) for settings in VARIED_CASES]


def shape_at(path: Path, name: str) -> Shape:
    """Return the numbers of a file."""
    with ModelFile.open(path, mapped=False) as file:
        return shape_of(file, describe(file), name=name)


def in_own_process(module: str, *arguments: str, home: Path) -> str:
    """Run a module in a fresh process with a home of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LLAMUNE_HOME": str(home)},
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def training_row(case: Case, *, home: Path, timed: bool) -> dict[str, Any]:
    """Measure one case and predict it; print both."""
    steps = TIME_STEPS if timed else MEMORY_STEPS
    asked = {"model": str(case.path), "settings": asdict(case.settings), "steps": steps}
    if case.varied:  # whose steps differ, so that they say nothing of the time of full ones
        timed, asked = False, {**asked, "steps": VARIED_STEPS, "varied": True}
    printed = in_own_process("benchmarks._plan_case", json.dumps(asked), home=home)
    found = json.loads(printed.splitlines()[-1])
    measured = {
        "measured_bytes": found["peak_bytes"],
        "accounted_bytes": found["accounted_bytes"],
        "compute_type": found["compute_type"],
    }
    if timed:
        measured["measured_seconds"] = found["seconds_a_step"]
    row = with_prediction(case, measured, home=home)
    print(in_words(row), flush=True)
    return row


def with_prediction(case: Case, measured: dict[str, Any], *, home: Path) -> dict[str, Any]:
    """Return what was measured and what the plan says, with the errors.

    Args:
        case: the training.
        measured: bytes, seconds a step where they were measured, and the type computed in.
        home: where the calibration lies.
    """
    settings = replace(case.settings, compute_type=measured["compute_type"])
    plan = predicted(shape_at(case.path, case.model), settings, steps=1, home=home)
    row = {
        "case": case.name,
        "settings": asdict(case.settings),
        **measured,
        "predicted_bytes": plan.memory_bytes,
        "error": plan.memory_bytes / measured["measured_bytes"] - 1,
        "parts": {part.key: part.nbytes for part in plan.memory.parts},
    }
    if "measured_seconds" in measured:
        row["predicted_seconds"] = plan.time.middle
        row["time_error"] = plan.time.middle / measured["measured_seconds"] - 1
        row["speed_source"] = plan.time.speed.source
    return row


def in_words(row: dict[str, Any]) -> str:
    """Return a row as a line to read."""
    line = f"{row['case']}: {row['predicted_bytes'] / 1e9:.3f} predicted, "
    line += f"{row['measured_bytes'] / 1e9:.3f} GB measured, {row['error']:+.1%}"
    if "time_error" in row:
        line += f"; {row['predicted_seconds']:.2f} predicted, {row['measured_seconds']:.2f} s a "
        line += f"step measured, {row['time_error']:+.1%}"
    return line


def planned_again(earlier: dict[str, Any], chosen: list[Case]) -> list[dict[str, Any]]:
    """Return kept rows with what the plan says today, after the calibration of that time."""
    kept = {row["case"]: row for row in earlier["training"]}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FACTS).write_text(json.dumps(earlier["calibration"]))
        for case in (case for case in chosen if case.name in kept):
            row = kept[case.name]
            measured = {key: row[key] for key in MEASURED if key in row}
            rows.append(with_prediction(case, measured, home=Path(folder)))
            print(in_words(rows[-1]), flush=True)
    return rows


def predicted(shape: Shape, settings: Settings, *, steps: int, home: Path) -> Plan:
    """Return the plan of steps as full as a case's."""
    work = Work(steps=steps, tokens=steps * settings.tokens, mean_length=settings.length)
    before = os.environ.get("LLAMUNE_HOME")
    os.environ["LLAMUNE_HOME"] = str(home)  # the calibration lies there
    try:
        return plan_settings(shape, settings, work)
    finally:
        if before is None:
            del os.environ["LLAMUNE_HOME"]
        else:
            os.environ["LLAMUNE_HOME"] = before


# -- llama.cpp ------------------------------------------------------------------------------------


def buffer_rows(model: str, path: Path) -> Iterator[dict[str, Any]]:
    """Hold llama.cpp's own buffers over context sizes against the plan's; print each."""
    shape = shape_at(path, model)
    for n_ctx, reported in reported_buffers(path, shape.context_length):
        for buffer, bytes_reported in reported.items():
            own, other = {
                "KV": (cache_bytes(shape, context=n_ctx)[0], None),
                "compute": (
                    compute_bytes(shape, context=n_ctx)[0],
                    gguf_parser_compute_bytes(shape, context=n_ctx),
                ),
            }[buffer]
            error = own / bytes_reported - 1
            print(f"{model} {buffer} at {n_ctx:,}: {error:+.2%}", flush=True)
            yield {
                "model": model,
                "buffer": buffer,
                "n_ctx": n_ctx,
                "predicted_bytes": own,
                "reported_bytes": bytes_reported,
                "error": error,
                "gguf_parser_bytes": other,
                "gguf_parser_error": None if other is None else other / bytes_reported - 1,
            }


def reported_buffers(path: Path, longest: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield for each context size the bytes of the buffers that llama.cpp's log names."""
    from llamune.engine import NativeModel, native

    lines: list[str] = []
    log = native.LogCallback(
        lambda _level, text, _data: lines.append(text.decode(errors="replace"))
    )
    library = native.library()
    with NativeModel(path, n_gpu_layers=0) as model:
        library.llama_log_set(log, None)
        for n_ctx in (size for size in CONTEXTS if size <= longest):
            lines.clear()
            options = library.llama_context_default_params()
            options.n_ctx, options.swa_full = n_ctx, False  # as the server and Ollama run
            options.n_threads = options.n_threads_batch = 1
            context = library.llama_init_from_model(ctypes.c_void_p(model._model), options)
            library.llama_free(ctypes.c_void_p(context))
            sizes: dict[str, float] = {}
            for name, size in re.findall(
                r"CPU (KV|compute) buffer size = +([\d.]+) MiB", "".join(lines)
            ):
                sizes[name] = sizes.get(name, 0.0) + float(size) * 2**20
            yield n_ctx, sizes
        library.llama_log_set(native.SILENT, None)


# -- summing up -----------------------------------------------------------------------------------


def summary(
    training: list[dict[str, Any]],
    buffers: list[dict[str, Any]],
    rules: dict[str, int],
    calibration: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return everything, held against the aims."""
    errors = [abs(row["error"]) for row in training]
    times = [abs(row["time_error"]) for row in training if "time_error" in row]
    others = [
        abs(rules[row["case"]] / row["measured_bytes"] - 1)
        for row in training
        if row["case"] in rules
    ]
    worst = max(abs(row["error"]) for row in buffers)
    parser = [abs(row["gguf_parser_error"]) for row in buffers if row["gguf_parser_bytes"]]
    return {
        "benchmark": "plan",
        "memory_median_error": median(errors),
        "memory_worst_error": max(errors),
        "time_median_error": median(times) if times else None,
        "time_worst_error": max(times) if times else None,
        "buffers_worst_error": worst,
        "accelerate_median_error": median(others),
        "accelerate_worst_error": max(others),
        "gguf_parser_compute_median_error": median(parser),
        "gguf_parser_compute_worst_error": max(parser),
        "aims_met": {
            "memory_median": median(errors) <= AIM_MEDIAN,
            "memory_worst": max(errors) <= AIM_WORST,
            "buffers_worst": worst <= AIM_BUFFERS,
            "time_median": median(times) <= AIM_TIME if times else None,
        },
        "training": training,
        "buffers": buffers,
        "accelerate_bytes": rules,
        "calibration": calibration,
    }


def with_earlier(
    training: list[dict[str, Any]], earlier: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows, in the earlier ones' order, with those earlier ones that are not anew."""
    anew = {row["case"]: row for row in training}
    rows = [anew.pop(row["case"], row) for row in earlier]
    return rows + list(anew.values())


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw predicted against measured peaks as SVG, ours and accelerate's."""
    from matplotlib.figure import Figure

    rows, rules = figures["training"], figures["accelerate_bytes"]
    measured = [row["measured_bytes"] / 1e9 for row in rows]
    ours = [row["predicted_bytes"] / 1e9 for row in rows]
    theirs = [rules[row["case"]] / 1e9 for row in rows]
    low, high = min(*measured, *theirs) * 0.8, max(*measured, *ours, *theirs) * 1.25
    figure = Figure(figsize=(6, 5))
    axes = figure.subplots()
    axes.fill_between([low, high], [low * 0.9, high * 0.9], [low * 1.1, high * 1.1], alpha=0.15)
    axes.plot([low, high], [low, high], linewidth=0.8, color="grey")
    axes.scatter(measured, theirs, s=14, marker="x", color="tab:orange", label="accelerate")
    axes.scatter(measured, ours, s=14, label="llamune plan")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="measured peak, GB", ylabel="predicted peak, GB")
    axes.legend(title="band: within 10 %")
    figure.tight_layout()
    # no date: the same figures give the same bytes
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory-only", action="store_true", help="measure no time")
    parser.add_argument("--quick", action="store_true", help="small cases on the starter")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument(
        "--again", action="store_true", help="plan what was measured before once more"
    )
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("FIGURES", "PLOT"))
    options = parser.parse_args()
    if options.draw:
        kept = json.loads(options.draw[0].read_text())
        draw(kept.get("figures", kept), options.draw[1])
        return
    paths = models(quick=options.quick)
    chosen = list(cases(paths, quick=options.quick, only=options.only))
    earlier = earlier_figures("plan") if options.only or options.again else {}
    calibration = earlier.get("calibration")
    if options.again:
        training = planned_again(earlier, chosen)
    else:
        timed = not options.memory_only
        training, calibration = measured_rows(chosen, timed=timed, calibration=calibration)
    sizes = {path: accelerate_bytes(path) for path in {case.path for case in chosen}}
    buffers = [row for model, path in paths.items() for row in buffer_rows(model, path)]
    rules = {case.name: sizes[case.path] for case in chosen}
    training = with_earlier(training, earlier.get("training", []))
    rules = {**earlier.get("accelerate_bytes", {}), **rules}
    print(json.dumps(summary(training, buffers, rules, calibration)))


def measured_rows(
    chosen: list[Case], *, timed: bool, calibration: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the cases, measured and predicted, and the calibration, made where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if calibration is not None:
            (home / FACTS).write_text(json.dumps(calibration))
        elif timed:
            for path in {case.path for case in chosen}:
                in_own_process("llamune", "plan", str(path), "--calibrate", home=home)
        rows = [training_row(case, home=home, timed=timed) for case in chosen]
        facts: dict[str, Any] = json.loads((home / FACTS).read_text())
    return rows, facts


if __name__ == "__main__":
    main()
