"""From an engine that hands pieces over to an iterator that is asked for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from llamune.engine.base import Receive
from llamune.engine.options import Piece

__all__ = ["pulled"]


def pulled(push: Callable[[Receive], None]) -> Iterator[Piece]:
    """Do the work on a thread and yield its pieces; closing the iterator ends the work.

    Args:
        push: does the work and hands over each piece.

    Raises:
        EngineError: what `push` raises.
    """
    arrived: SimpleQueue[Piece | None] = SimpleQueue()
    stopped = threading.Event()

    def receive(piece: Piece) -> bool:
        arrived.put(piece)
        return stopped.is_set()

    def work() -> None:
        try:
            push(receive)
        finally:
            arrived.put(None)

    with ThreadPoolExecutor(max_workers=1) as thread:
        working = thread.submit(work)
        try:
            yield from iter(arrived.get, None)
            working.result()
        finally:
            stopped.set()
