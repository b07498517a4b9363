"""What `llamune serve` costs over llama.cpp's own server, and what many adapters of one base cost.

    python -m benchmarks.serve                         # 5 minutes of 16 clients, 5 trials
    python -m benchmarks.serve --seconds 10 --trials 1 --requests 1 --tokens 8   # try it

On the starter model with random adapters of rank 16. llama.cpp's server runs from the same wheel,
in a process of its own, with the same settings; its trials alternate with ours. Four parts:

- load: tokens a second, latency and time to the first token at 1, 4 and 16 clients on both servers;
- sharing: 4 clients on one adapter against 4 clients on four;
- soak: 16 clients over 4 adapters for some time, without an error, in flat memory;
- forms: tokens a second of one client on the base, the base with an adapter, and the merged file.

Prints every trial and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psutil
from benchmarks._measure import measured_on

CLIENTS = (1, 4, 16)
ADAPTERS = ("one", "two", "three", "four")
RANK = 16
CONTEXT = 512
PARALLEL = 4
MAX_OVERHEAD = 0.05
MAX_GROWTH = 0.05
TOPICS = ("rivers", "bread", "glass", "winter", "maps", "engines", "tea", "bridges")
OURS = "import sys; from llamune.cli import main; main()"


@dataclass(frozen=True)
class Target:
    """A server and the process whose memory counts."""

    url: str
    pid: int


@dataclass(frozen=True)
class Reply:
    """One answered request; times in seconds since it was sent."""

    n_tokens: int
    first: float
    whole: float


def main() -> None:
    """Run the parts and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300, help="of the soak")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3, help="of each client in a trial")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # the inner process
    chosen = parser.parse_args()
    if chosen.file is not None:
        serve_with_llama_cpp(chosen.file, n_threads=chosen.threads)
        return
    with tempfile.TemporaryDirectory(prefix="llamune-serve-") as name, ExitStack() as stack:
        path = prepare(Path(name))
        ours = stack.enter_context(our_server(n_threads=chosen.threads))
        theirs = stack.enter_context(llama_cpp_server(path, n_threads=chosen.threads))
        result = {
            "benchmark": "serve",
            **measured_on(),
            "n_threads": chosen.threads,
            "trials": chosen.trials,
            "load": load(ours, theirs, chosen),
            "sharing": sharing(ours, chosen),
            "forms": forms(ours, chosen),
            "soak": soak(ours, chosen),
        }
    overheads = [row["overhead"] for row in result["load"].values()]
    result["met"] = {
        "overhead": max(overheads) < MAX_OVERHEAD,
        "soak": result["soak"]["errors"] == 0 and result["soak"]["growth"] < MAX_GROWTH,
    }
    print(json.dumps(result))


def prepare(folder: Path) -> Path:
    """Fill a library with the starter, its adapters and one merged file; return the base's path."""
    os.environ["LLAMUNE_HOME"] = str(folder / "home")
    from llamune.adapter import merge, read_gguf_adapter
    from llamune.gguf import ModelFile
    from llamune.store import publish_adapter, publish_model, starter

    path = starter.fetch()
    base = publish_model("base", path)
    for seed, name in enumerate(ADAPTERS):
        adapter = random_adapter(path, folder / f"{name}.gguf", seed)
        publish_adapter(name, base, adapter)
    merged = folder / "merged.gguf"
    with ModelFile.open(path) as file:
        merge(file, [(read_gguf_adapter(folder / f"{ADAPTERS[0]}.gguf"), 1.0)], merged)
    publish_model("merged", merged)
    return path


def random_adapter(base: Path, out: Path, seed: int) -> Path:
    """Write a small random LoRA on every linear layer of a base."""
    from llamune.arch import describe
    from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf

    rng = np.random.default_rng(seed)
    tensors = []
    with ModelFile.open(base) as file:
        for rule in describe(file).linear_modules("all").values():
            rows, columns = rule.shape
            for part, shape in (("lora_a", (RANK, columns)), ("lora_b", (rows, RANK))):
                data = rng.normal(0, 0.01, shape).astype(np.float32).tobytes()
                name = f"{rule.gguf}.{part}"
                tensors.append(NewTensor(name, shape, quant_type("F32"), partial(list, [data])))
        architecture = file.architecture
    metadata = {
        "general.architecture": Entry.of(architecture),
        "general.type": Entry.of("adapter"),
        "adapter.type": Entry.of("lora"),
        "adapter.lora.alpha": Entry.of(float(RANK)),
    }
    write_gguf(out, metadata=metadata, tensors=tensors)
    return out


@contextmanager
def our_server(*, n_threads: int) -> Iterator[Target]:
    """Run `llamune serve` on a free port."""
    command = [sys.executable, "-c", OURS, "serve", "--port", "0", "--threads", str(n_threads)]
    command += ["--context", str(CONTEXT), "--parallel", str(PARALLEL), "--idle", "100000"]
    with process(command, stream="stderr") as target:
        yield target


@contextmanager
def llama_cpp_server(path: Path, *, n_threads: int) -> Iterator[Target]:
    """Run llama.cpp's own server from the same wheel on a free port."""
    command = [sys.executable, "-m", "benchmarks.serve", "--file", str(path)]
    with process([*command, "--threads", str(n_threads)], stream="stdout") as target:
        yield target


@contextmanager
def process(command: Sequence[str], *, stream: str) -> Iterator[Target]:
    """Run a server that says its address in its first line."""
    pipes: dict[str, Any] = {stream: subprocess.PIPE}
    running = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, **pipes)
    try:
        line = getattr(running, stream).readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        if found is None:
            raise RuntimeError(f"the server did not start: {line!r}")
        yield Target(found.group(), running.pid)
    finally:
        running.terminate()
        running.communicate(timeout=60)


def serve_with_llama_cpp(path: Path, *, n_threads: int) -> None:
    """Run llama.cpp's server with the settings of our engine until this process is ended."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = CONTEXT * PARALLEL
    parameters.n_parallel = PARALLEL
    parameters.cpuparams.n_threads = n_threads
    parameters.cpuparams_batch.n_threads = n_threads
    parameters.fit_params = False
    parameters.cache_ram_mib = 0
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


def load(ours: Target, theirs: Target, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return both servers' figures at each number of clients."""
    for target in (ours, theirs):
        run(target, ["base"], chosen, n_requests=1)  # loads the model, touches its pages
    rows = {}
    for n_clients in CLIENTS:
        trials: dict[str, list[dict[str, float]]] = {"llamune": [], "llama.cpp": []}
        for number in range(chosen.trials):
            for name, target in (("llamune", ours), ("llama.cpp", theirs)):
                found = run(target, ["base"] * n_clients, chosen)
                trials[name].append(found)
                print(f"{n_clients:>2} clients, {name}, trial {number + 1}: {shown(found)}")
        # a pair of trials stands side by side in time, so what else the machine does cancels out
        pairs = list(zip(trials["llamune"], trials["llama.cpp"], strict=True))
        assert all(a["tokens"] == b["tokens"] for a, b in pairs), "the answers differ in length"
        ratios = [1 - a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs]
        rows[str(n_clients)] = {
            **{name: summary(found) for name, found in trials.items()},
            "overhead": median(ratios),
            "overheads": ratios,
        }
    return rows


def sharing(ours: Target, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what four adapters at once cost against one."""
    run(ours, ADAPTERS, chosen, n_requests=1)
    ways = {"1 adapter": [ADAPTERS[0]] * len(ADAPTERS), "4 adapters": ADAPTERS}
    return compared(ours, ways, chosen)


def forms(ours: Target, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return one client's speed on the base, with an adapter beside it, and merged into it."""
    run(ours, ["merged"], chosen, n_requests=1)
    ways = {"base": ["base"], "base + adapter": [ADAPTERS[0]], "merged": ["merged"]}
    return compared(ours, ways, chosen)


def compared(
    ours: Target, ways: Mapping[str, Sequence[str]], chosen: argparse.Namespace
) -> dict[str, Any]:
    """Return the figures of some ways to ask, their trials taken in turns."""
    trials: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(chosen.trials):
        for name, models in ways.items():
            found = run(ours, models, chosen)
            trials[name].append(found)
            print(f"{name}, trial {number + 1}: {shown(found)}")
    return {name: summary(found) for name, found in trials.items()}


def soak(ours: Target, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return how 16 clients over 4 adapters went: requests, errors, memory from start to end."""
    models = [ADAPTERS[number % len(ADAPTERS)] for number in range(16)]
    server = psutil.Process(ours.pid)
    samples: list[int] = []

    async def go() -> tuple[int, int, int]:
        until = time.monotonic() + chosen.seconds

        async def sample() -> None:
            while True:
                samples.append(server.memory_info().rss)
                await asyncio.sleep(chosen.seconds / 100)

        async with client_of(ours) as client:
            watching = asyncio.create_task(sample())
            clients = (one_client(client, model, chosen, until) for model in models)
            counts = await asyncio.gather(*clients)
            watching.cancel()
        sums = [sum(column) for column in zip(*counts, strict=True)]
        return sums[0], sums[1], sums[2]

    n_requests, n_tokens, n_errors = asyncio.run(go())
    quarter = max(1, len(samples) // 4)
    before, after = median(samples[quarter : 2 * quarter] or samples), median(samples[-quarter:])
    print(f"soak: {n_requests} requests, {n_errors} errors, {before:,.0f} → {after:,.0f} bytes")
    return {
        "seconds": chosen.seconds,
        "requests": n_requests,
        "tokens": n_tokens,
        "errors": n_errors,
        "resident_bytes": samples,
        "growth": after / before - 1,
    }


async def one_client(
    client: httpx.AsyncClient, model: str, chosen: argparse.Namespace, until: float
) -> tuple[int, int, int]:
    """Ask again and again; return the requests, tokens and errors."""
    n_requests = n_tokens = n_errors = 0
    while time.monotonic() < until:
        try:
            reply = await ask(client, model, n_requests, chosen.tokens)
            n_tokens += reply.n_tokens
        except (httpx.HTTPError, KeyError, ValueError) as error:
            print(f"error: {error!r}")
            n_errors += 1
        n_requests += 1
    return n_requests, n_tokens, n_errors


def run(
    target: Target,
    models: Sequence[str],
    chosen: argparse.Namespace,
    *,
    n_requests: int | None = None,
) -> dict[str, float]:
    """Let one client a model ask at the same time; return the trial's figures."""

    async def client_at(client: httpx.AsyncClient, place: int, model: str) -> list[Reply]:
        count = n_requests or chosen.requests
        return [await ask(client, model, place + turn, chosen.tokens) for turn in range(count)]

    async def go() -> list[Reply]:
        async with client_of(target) as client:
            lists = await asyncio.gather(
                *(client_at(client, place, model) for place, model in enumerate(models))
            )
        return [reply for replies in lists for reply in replies]

    started = time.perf_counter()
    replies = asyncio.run(go())
    seconds = time.perf_counter() - started
    latencies = sorted(reply.whole for reply in replies)
    return {
        "tokens": sum(reply.n_tokens for reply in replies),
        "tokens_per_second": sum(reply.n_tokens for reply in replies) / seconds,
        "latency_p50": median(latencies),
        "latency_p95": latencies[int(0.95 * (len(latencies) - 1))],
        "first_token_p50": median(reply.first for reply in replies),
    }


def client_of(target: Target) -> httpx.AsyncClient:
    """Return a client that waits as long as a full queue takes.

    It opens a connection a request, to both servers: llama.cpp's closes kept ones when it likes.
    """
    anew = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=target.url, timeout=600, limits=anew)


async def ask(client: httpx.AsyncClient, model: str, number: int, n_tokens: int) -> Reply:
    """Stream one answer; the same number asks the same thing.

    Raises:
        httpx.HTTPError: the server refuses or breaks off.
        ValueError: the answer is not as long as it was asked to be.
    """
    topic = TOPICS[number % len(TOPICS)]
    body = {
        "model": model,
        "prompt": f"Here is a long and detailed list of facts about {topic}. First,",
        "max_tokens": n_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = time.perf_counter()
    first: float | None = None
    found = 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise ValueError(chunk["error"])
            if first is None and chunk["choices"] and chunk["choices"][0].get("text"):
                first = time.perf_counter() - sent
            found = (chunk.get("usage") or {}).get("completion_tokens", found)
    if first is None or not found:
        raise ValueError("the answer is empty")
    return Reply(n_tokens=found, first=first, whole=time.perf_counter() - sent)


def summary(trials: list[dict[str, float]]) -> dict[str, Any]:
    """Return medians, and each trial's speed for the spread."""
    return {
        **{key: median(trial[key] for trial in trials) for key in trials[0]},
        "each_tokens_per_second": [trial["tokens_per_second"] for trial in trials],
    }


def shown(found: dict[str, float]) -> str:
    """Return a trial in one line."""
    return (
        f"{found['tokens_per_second']:.1f} tokens/s, latency {found['latency_p50']:.2f} s "
        f"(p95 {found['latency_p95']:.2f}), first token {found['first_token_p50']:.3f} s"
    )


if __name__ == "__main__":
    main()
