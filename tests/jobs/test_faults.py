"""A full disk, a tracker, and memory that the kernel takes away: with the real things."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamune.jobs import resume, tune
from llamune.runs import Run
from llamune.store import home as home_folder
from llamune.train import TrainError

QUICK: dict[str, Any] = {"steps": 12, "evaluations": 2, "learning_rate": 5e-3, "rank": 4}
CGROUPS = Path("/sys/fs/cgroup")


def mount(folder: Path, n_bytes: int) -> None:
    """Mount a small file system, or skip the test with the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else error
        pytest.skip(f"a small file system cannot be mounted here: {said}")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """The folder of all runs, on a disk of two megabytes."""
    runs = home_folder() / "runs"
    mount(runs, 2 << 20)
    yield runs
    subprocess.run(["umount", "-l", str(runs)], check=False, capture_output=True, timeout=30)


@pytest.mark.slow
def test_a_full_disk_stops_with_one_line_and_the_run_goes_on_from_its_last_checkpoint(
    small_disk: Path, tiny_base: Path, examples: Path
) -> None:
    from llamune.jobs import JobEvent
    from llamune.train import CheckpointWritten

    ballast = small_disk / "ballast"

    def fill(event: JobEvent) -> None:
        if isinstance(event, CheckpointWritten) and event.step >= 2:
            with ballast.open("wb", buffering=0) as out:
                try:
                    while True:
                        out.write(b"\0" * 4096)
                except OSError:
                    pass

    with pytest.raises(TrainError, match="the disk is full; the checkpoint of step") as caught:
        tune(str(tiny_base), data=examples, name="colours", on_event=fill, **QUICK)
    assert caught.value.hint is not None
    assert "llamune tune --resume colours:latest#1" in caught.value.hint
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    run = resume("colours")
    assert run.record.state == "done"
    steps = [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 13))


@pytest.mark.slow
def test_losses_go_to_a_tracker_too(tiny_base: Path, examples: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tune(str(tiny_base), data=examples, name="colours", report_to="tensorboard", **QUICK)
    written = list(run.folder.rglob("events.out.tfevents.*"))
    assert written
    events = reader.EventAccumulator(str(written[0].parent)).Reload()
    logged = [round(event.value, 4) for event in events.Scalars("train/loss")]
    ours = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert logged == pytest.approx([one["loss"] for one in ours if "loss" in one], abs=1e-3)


def memory_group(n_bytes: int) -> Path:
    """Return a new control group with so much memory, or skip the test with the reason."""
    version_2 = (CGROUPS / "cgroup.controllers").exists()
    group = (CGROUPS if version_2 else CGROUPS / "memory") / f"llamune-test-{os.getpid()}"
    limits = ["memory.max", "memory.swap.max"] if version_2 else ["memory.limit_in_bytes"]
    try:
        group.mkdir()
        (group / limits[0]).write_text(str(n_bytes))
        for name in limits[1:]:
            (group / name).write_text("0")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"control groups are not permitted here: {error}")
    return group


@pytest.fixture
def tight() -> Iterator[Path]:
    group = memory_group(700 << 20)
    yield group
    group.rmdir()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are Linux's")
def test_a_kill_by_the_kernel_is_reported_by_the_parent(
    tight: Path, starter_path: Path, examples: Path
) -> None:
    # the plan does not see the group; in it, the training does not fit
    inside = (
        f"open({str(tight / 'cgroup.procs')!r}, 'w').write('0'); "
        "from llamune.cli import main; main()"
    )
    done = subprocess.run(
        [
            sys.executable, "-c", inside, "tune", str(starter_path), "--data", str(examples),
            "--name", "colours", "--copy", "--steps", "4", "--batch", "8", "--micro-batch", "8",
            "--yes", "--allow-sleep",
        ],
        text=True, capture_output=True, timeout=300, check=False,
        env={name: text for name, text in os.environ.items() if name != "LLAMUNE_SUPERVISED"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    assert "error: the system killed the training" in done.stderr
    assert "for want of memory" in done.stderr
    assert "--micro-batch 4 (now 8)" in done.stderr
    assert Run.find("colours").record.state == "failed"
