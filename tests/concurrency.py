"""What tests with threads and processes share: waits that end when the thing has happened.

A fixed sleep is too short on a busy machine and too long on any other; a thread of its own swallows
what is raised in it; a port that was free a moment ago is given to the next who asks.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

__all__ = ["PATIENCE_SECONDS", "at_once", "forked", "free_port", "serving", "wait_until"]

T = TypeVar("T")

PATIENCE_SECONDS = 120
"""how long something that takes a moment may take on a busy machine; below pytest's own limit"""


def wait_until(
    happened: Callable[[], object], *, seconds: float = PATIENCE_SECONDS, pause: float = 0.02
) -> None:
    """Return as soon as `happened()` is true.

    Raises:
        AssertionError: it did not become true in time.
    """
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"did not happen in {seconds} s: {happened}"
        time.sleep(pause)


def at_once(*works: Callable[[], T]) -> list[T]:
    """Do every work in a thread of its own and return the results in order.

    Raises:
        Exception: what the first work that failed raised.
    """
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work) for work in works]
    return [future.result() for future in futures]


def forked(work: Callable[[], object]) -> int:
    """Do a work in a forked child and return its process id; it exits with 1 if the work raised."""
    child = os.fork()
    if child == 0:  # must never run on into pytest
        try:
            work()
        except BaseException:  # noqa: BLE001  told, and the child ends
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    return child


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """Run an HTTP server on loopback, in a thread, that stops as soon as it is told."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """Return a port of loopback for a program that cannot choose one itself.

    It lies below those that systems hand out by themselves, so that nobody is given it before the
    program takes it.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
