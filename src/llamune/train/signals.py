"""Ctrl-C and `kill`: the first asks the run to save and stop, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["StopRequest"]


class StopRequest:
    """While entered, a first SIGINT or SIGTERM sets `requested`; a second one interrupts."""

    def __init__(self) -> None:
        self.requested = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self.heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def heard(self, _number: int, _frame: FrameType | None) -> None:
        """Note the request, or stop at once when it was made before."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
