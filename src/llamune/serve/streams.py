"""From an engine's blocking pieces to the event loop; the work ends when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio import to_thread
from starlette.requests import Request

from llamune.serve.errors import RequestError

__all__ = ["ClientLeftError", "in_thread", "iterate", "until_client_leaves"]

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
async def iterate(source: Iterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Give the items of a blocking iterator; the iterator is closed when the block ends."""
    end = object()

    async def items() -> AsyncIterator[T]:
        while (item := await in_thread(lambda: next(source, end))) is not end:
            yield item  # type: ignore[misc]  # the sentinel is ruled out by the condition

    try:
        yield items()
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            await asyncio.shield(asyncio.to_thread(close))


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
