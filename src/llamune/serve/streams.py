"""From an engine's blocking pieces to the event loop; the work ends when the client leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from anyio import to_thread
from starlette.requests import Request

from llamune.serve.errors import RequestError

__all__ = ["ClientLeftError", "handed_over", "in_thread", "until_client_leaves"]

T = TypeVar("T")

POLL_SECONDS = 0.2
CLIENT_CLOSED_REQUEST = 499


class ClientLeftError(RequestError):
    """The client closed its connection before the answer was whole."""

    def __init__(self) -> None:
        super().__init__(CLIENT_CLOSED_REQUEST, "the client left")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a blocking call in a thread; a cancelled caller still waits for its end."""
    return await to_thread.run_sync(function)


@asynccontextmanager
async def handed_over(
    push: Callable[[Callable[[T], bool]], None],
) -> AsyncIterator[AsyncIterator[T]]:
    """Give the items that blocking work hands over; it ends with the block, at its next item.

    One thread does the whole work and never waits for the event loop: a token costs one wake-up.

    Args:
        push: does the work; what it hands items to answers true where it should end.
    """
    loop = asyncio.get_running_loop()
    end = object()
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    stopped = threading.Event()

    def receive(item: T) -> bool:
        loop.call_soon_threadsafe(arrived.put_nowait, item)
        return stopped.is_set()

    async def work() -> None:
        try:
            await in_thread(lambda: push(receive))
        finally:
            arrived.put_nowait(end)

    working = asyncio.create_task(work())

    async def items() -> AsyncIterator[T]:
        while (item := await arrived.get()) is not end:
            yield item
        await working

    try:
        yield items()
    finally:
        stopped.set()
        await asyncio.shield(asyncio.gather(working, return_exceptions=True))


async def until_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """Wait for a whole answer, and give the work up as soon as the client is gone.

    Raises:
        ClientLeftError: the connection closed first.
    """
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=POLL_SECONDS)
            if done:
                return task.result()
            if await request.is_disconnected():
                raise ClientLeftError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
