"""`llamune chat` in a real terminal: Ctrl-C stops the answer and not the program."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# the terminal becomes the process's own, so that Ctrl-C reaches it as a signal; whoever started the
# tests may have that signal ignored
MAIN = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from llamune.cli import main
main()
"""
CTRL_C, CTRL_D = b"\x03", b"\x04"
QUESTION = b"Tell a very long story about a river.\n"


class Terminal:
    """What a person sees and types."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.shown = b""

    def type(self, keys: bytes) -> None:
        os.write(self.place, keys)

    def wait_for(self, pattern: bytes, *, again: bytes = b"", seconds: float = 300) -> None:
        """Read on until the pattern has been shown; what is shown up to its end is forgotten.

        Args:
            pattern: what to wait for.
            again: keys to press once more whenever nothing has come for some seconds.
            seconds: when to give up.
        """
        until = time.monotonic() + seconds
        while (found := re.search(pattern, self.shown)) is None:
            ready, _, _ = select.select([self.place], [], [], 5)
            if ready:
                self.shown += os.read(self.place, 4096)
                continue
            shown = self.shown[-500:]
            assert time.monotonic() < until, f"{pattern!r} did not come; shown: {shown!r}"
            self.type(again)
        self.shown = self.shown[found.end() :]


@contextmanager
def chatting(path: Path) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """Run the program in a terminal of its own."""
    ours, theirs = pty.openpty()
    options = ["--threads", "1", "--context", "2048", "--max-tokens", "2000", "--seed", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "chat", str(path), *options],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        process.kill()
        process.wait(timeout=30)
        os.close(ours)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_ctrl_c_stops_the_answer_and_not_the_program(starter_path: Path):
    with chatting(starter_path) as (terminal, process):
        terminal.wait_for(rb">>> ")
        terminal.type(QUESTION)
        terminal.wait_for(rb"river\.\r\n[^>]{20,}")  # the answer has begun
        terminal.type(CTRL_C)
        terminal.wait_for(rb"stopped\r\n>>> ")
        terminal.type(CTRL_C)  # nothing to stop: it says how to leave
        # a signal between the prompt and the read behind it is only seen after the next key
        terminal.wait_for(rb"Ctrl-D leaves\r\n>>> ", again=CTRL_C)
        terminal.type(b"/undo\n")
        terminal.wait_for(rb">>> ")
        terminal.type(b"What is the capital of Japan?\n")
        terminal.wait_for(rb"Tokyo")
        terminal.wait_for(rb">>> ")
        assert process.poll() is None
        terminal.type(CTRL_D)
        assert process.wait(timeout=300) == 0
