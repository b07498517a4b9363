"""`llamune tune` under torchrun: two processes, and two hosts, do what one process does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamune.runs import Run
from llamune.store import resolve
from tests.concurrency import free_port

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
FIRST, SECOND = "10.77.31.1", "10.77.31.2"
TIMEOUT_SECONDS = 300


def command(base: Path, data: Path, name: str, *extra: str) -> list[str]:
    # no dropout: each process draws its own numbers
    return ["tune", str(base), "--data", str(data), "--name", name, "--copy", "--allow-sleep",
            "--steps", "6", "--evaluations", "2", "--lr", "5e-3", "--rank", "4", "--batch", "8",
            "--dropout", "0", "--compute-type", "float32", *extra]  # fmt: skip


def losses(run: Run) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [(entry["step"], entry.get("loss", entry.get("validation_loss"))) for entry in entries]


def check_same(alone: Run, shared: Run) -> None:
    assert [step for step, _ in losses(shared)] == [step for step, _ in losses(alone)]
    assert [loss for _, loss in losses(shared)] == pytest.approx(
        [loss for _, loss in losses(alone)], rel=1e-5
    )
    record = shared.record
    assert record.state == "done"
    assert record.proof is not None
    assert record.proof["verdict"] == "pass", record.proof["reasons"]
    assert resolve(shared.name).adapters


def launch(launcher: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*launcher, "-m", "llamune", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True,
        timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip


@pytest.fixture
def alone(tiny_base: Path, examples: Path) -> Run:
    done = launch([sys.executable], command(tiny_base, examples, "alone"))
    assert done.returncode == 0, done.stderr[-3000:]
    return Run.find("alone")


@pytest.mark.slow
def test_two_processes_are_one_training(alone: Run, tiny_base: Path, examples: Path) -> None:
    two = [*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port())]
    done = launch(two, command(tiny_base, examples, "shared"))
    assert done.returncode == 0, done.stderr[-3000:]
    # one process talks, one run is made
    assert done.stdout.count("shared:latest#1: 6 steps") == 1
    assert done.stderr.count("reading the model and the data") == 1
    assert sorted(run.reference for run in Run.all()) == ["alone:latest#1", "shared:latest#1"]
    check_same(alone, Run.find("shared"))


@pytest.mark.slow
def test_accelerate_launches_it_too(alone: Run, tiny_base: Path, examples: Path) -> None:
    two = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
           "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
           "--main_process_port", str(free_port())]  # fmt: skip
    done = launch(two, command(tiny_base, examples, "shared"))
    assert done.returncode == 0, done.stderr[-3000:]
    check_same(alone, Run.find("shared"))


@pytest.mark.slow
def test_a_refusal_ends_every_process(tiny_base: Path, examples: Path) -> None:
    two = [*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port())]
    done = launch(two, command(tiny_base, examples, "shared", "--targets", "q_prj"))
    assert done.returncode != 0
    assert "no linear layer is named q_prj" in done.stderr
    assert "Traceback" not in done.stderr.partition("elastic")[0]
    assert Run.all() == []


def address(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces of the test's own, joined by a cable."""
    if not sys.platform.startswith("linux") or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux and iproute2")
    names = (f"llamune-a-{os.getpid()}", f"llamune-b-{os.getpid()}")
    try:
        address("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted: {error.stderr.decode().strip()}")
    try:
        address("netns", "add", names[1])
        ends = (f"lla{os.getpid()}", f"llb{os.getpid()}")
        address("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, own in zip(names, ends, (FIRST, SECOND), strict=True):
            address("link", "set", end, "netns", name)
            address("-n", name, "address", "add", f"{own}/24", "dev", end)
            address("-n", name, "link", "set", end, "up")
            address("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        delete(names)
        pytest.skip(f"a cable between namespaces is not permitted: {error.stderr.decode().strip()}")
    yield names
    delete(names)


def delete(names: tuple[str, str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.slow
def test_two_hosts_are_one_training(
    hosts: tuple[str, str], alone: Run, tiny_base: Path, examples: Path
) -> None:
    arguments = command(tiny_base, examples, "shared")
    processes = []
    for rank, host in enumerate(hosts):
        # each host names the cable's own end, which is all that it has beside itself
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": cable(host)}
        launcher = [
            "ip", "netns", "exec", host, *TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1",
            "--node-rank", str(rank), "--master-addr", FIRST, "--master-port", "29741",
        ]  # fmt: skip
        processes.append(
            subprocess.Popen(
                [*launcher, "-m", "llamune", *arguments],
                env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    said = [process.communicate(timeout=TIMEOUT_SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "shared:latest#1: 6 steps" in said[0][0]
    assert said[1][0] == ""
    check_same(alone, Run.find("shared"))


def cable(host: str) -> str:
    shown = subprocess.run(
        ["ip", "-n", host, "-json", "link", "show", "type", "veth"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return str(json.loads(shown.stdout)[0]["ifname"])
