"""`make demo`: from a downloaded model file to a tuned, proven, merged one, in a few minutes.

Every step is the command that a person would type. What it makes lies in `demo-output/`; the
starter model is fetched once and kept outside the checkout. `LLAMUNE_DEMO_STEPS` lowers the
number of optimizer steps.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "demo-output"
MERGED = OUT / "tickets.gguf"
STEPS = int(os.environ.get("LLAMUNE_DEMO_STEPS", "24"))
QUESTIONS = ("I was charged twice, please fix it today.", "荷物がまだ届きません。")
PROGRAM = "from llamune.cli import main; main()"
ANSWER_IS_NO = 1


def llamune(*arguments: str | Path, may_say_no: bool = False) -> None:
    """Run one command, its output as it comes; stop the demo when it fails."""
    words = [str(argument) for argument in arguments]
    shown = " ".join(shlex.quote(word.replace(f"{HERE.parent}/", "")) for word in words)
    print(f"\n$ llamune {shown}", flush=True)
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-c", PROGRAM, *words], check=False).returncode
    print(f"({time.monotonic() - began:.1f} s)", flush=True)
    if code and not (may_say_no and code == ANSWER_IS_NO):
        sys.exit(code)


def steps() -> None:
    """Run every command of the way."""
    data, test = HERE / "tickets.json", HERE / "tickets.test.json"
    few = STEPS < 20  # the proof then says, rightly, that it cannot tell
    llamune("pull", "starter")
    llamune("inspect", "starter")
    llamune("plan", "starter", "--data", data)
    llamune("data", "check", data, "--model", "starter")
    for question in QUESTIONS:
        llamune("run", "starter", question, "--max-tokens", "24", "--temperature", "0")
    llamune(
        "tune", "starter", "--data", data, "--test", test, "--name", "tickets", "--replace",
        "--steps", str(STEPS), "--lr", "1e-3", "--rank", "8", "--dropout", "0",
        "--evaluations", "1", "--validation", "0.05", may_say_no=few,
    )  # fmt: skip
    llamune("prove", "tickets", "--positions", "64", may_say_no=few)
    MERGED.unlink(missing_ok=True)
    llamune("merge", "tickets", "--out", MERGED)
    for question in QUESTIONS:
        llamune("run", "tickets", question, "--max-tokens", "24", "--temperature", "0")
    llamune("runs", "list")


def table(seconds: float) -> None:
    """Print what came of it."""
    from rich.console import Console
    from rich.table import Table

    from llamune.jobs import bytes_text, seconds_text
    from llamune.runs import Run

    run = Run.find("tickets")
    record = run.record
    assert record.base is not None
    assert record.memory.predicted_bytes is not None
    assert record.memory.measured_bytes is not None
    proof, loss = record.proof or {}, record.loss
    rows = [
        ("base", f"{record.base.reference}, {bytes_text(record.base.size_bytes)}, unchanged: "
         f"{record.base.untouched}"),
        ("parameters trained", f"{record.parameters_trained:,} of {record.base.parameters:,}"),
        ("training", f"{record.steps_done} steps, {seconds_text(record.seconds.measured or 0)}, "
         f"{record.tokens_per_second:,.0f} tokens/s"),
        ("peak memory, predicted", bytes_text(record.memory.predicted_bytes)),
        ("peak memory, measured", bytes_text(record.memory.measured_bytes)),
        ("validation loss", f"{loss.validation_before:.3f} → {loss.validation:.3f}"),
        *(
            (f"{score.metric} on {score.n} held-out",
             f"{score.before:.0%} ({score.before_low:.0%}–{score.before_high:.0%}) → "
             f"{score.after:.0%} ({score.after_low:.0%}–{score.after_high:.0%})")
            for score in record.scores
        ),
        ("proof", f"{proof['verdict']}: KL {proof['exact']['mean_kl']:.1e} in F32, "
         f"{proof['served']['mean_kl']:.1e} as served (floor {proof['floor']['mean_kl']:.1e})"),
        ("adapter", str(run.adapter_gguf)),
        ("merged", f"{MERGED} ({bytes_text(MERGED.stat().st_size)})"),
        ("report", str(run.report_path)),
        ("everything", seconds_text(seconds)),
    ]  # fmt: skip
    listing = Table(box=None, show_header=False, pad_edge=False)
    for what, value in rows:
        listing.add_row(what, value)
    print()
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(listing)


def main() -> None:
    """Run the demo."""
    os.environ["LLAMUNE_HOME"] = str(OUT / "home")
    OUT.mkdir(exist_ok=True)
    began = time.monotonic()
    steps()
    table(time.monotonic() - began)


if __name__ == "__main__":
    main()
