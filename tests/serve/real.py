"""`llamune serve` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.concurrency import PATIENCE_SECONDS

MAIN = "import sys; from llamune.cli import main; main()"


@dataclass(frozen=True)
class Running:
    """A server and where it answers."""

    url: str
    process: subprocess.Popen[str]
    environment: dict[str, str]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


@contextmanager
def running_server(*options: str) -> Iterator[Running]:
    """Run a server over the library of this environment, on a free port, with one thread."""
    environment = dict(os.environ)
    command = [sys.executable, "-c", MAIN, "serve", "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        yield Running(found.group(), process, environment)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)
