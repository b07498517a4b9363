"""One request from door to door: admitted, given a model, answered, counted."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llamune.engine import Asked, EngineError, Piece
from llamune.errors import UnsupportedError
from llamune.serve.errors import RequestError
from llamune.serve.metering import Meter, Usage
from llamune.serve.pool import Lease, Pool
from llamune.serve.streams import handed_over, in_thread
from llamune.text import TextError

logger = logging.getLogger(__name__)

__all__ = ["Job", "PieceStream", "Service"]


@dataclass(eq=False)
class Job:
    """A request at work; closing it lets go of the model and counts what was used."""

    lease: Lease
    usage: Usage
    stack: AsyncExitStack
    first: Piece | None = None
    rest: AsyncIterator[Piece] | None = field(default=None, repr=False)

    async def start(self, asked: Asked) -> None:
        """Begin the answer and wait for its first piece, so that a refusal is still a status.

        Raises:
            RequestError: 400, the engine refuses the request.
        """
        engine = self.lease.engine

        def push(receive: Callable[[Piece], bool]) -> None:
            engine.push(asked, receive)

        rest = await self.stack.enter_async_context(handed_over(push))
        self.rest = rest
        try:
            self.first = await anext(rest, None)
        except (EngineError, TextError, UnsupportedError) as error:
            raise RequestError(400, error.message) from error

    async def pieces(self) -> AsyncIterator[Piece]:
        """Give all pieces, the first one too, counting tokens on the way.

        Whoever has read the end of an answer finds it counted, whatever happens to this process
        then: the job closes before its last piece goes out.

        Raises:
            RequestError: 500, the engine fails in the middle.
        """
        piece = self.first
        while piece is not None:
            self.count(piece)
            if piece.finish_reason is not None:
                await self.close()
                yield piece
                return
            yield piece
            piece = await self.following()

    async def following(self) -> Piece | None:
        """Wait for the next piece; None after the last one.

        Raises:
            RequestError: 500, the engine fails in the middle.
        """
        if self.rest is None:
            return None
        try:
            return await anext(self.rest, None)
        except EngineError as error:
            logger.warning("%s stopped in mid-answer: %s", self.usage.model, error.message)
            raise RequestError(500, "the engine failed in mid-answer") from error

    def count(self, piece: Piece) -> None:
        """Take over the engine's counts, or count pieces until those come."""
        if piece.text or piece.thinking:
            self.usage.completion_tokens += 1
        if piece.n_answer_tokens is not None:
            self.usage.completion_tokens = piece.n_answer_tokens
        if piece.n_prompt_tokens is not None:
            self.usage.prompt_tokens = piece.n_prompt_tokens

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Return one vector a text.

        Raises:
            RequestError: 400, the engine refuses the texts.
        """
        engine = self.lease.engine
        try:
            embeddings = await in_thread(lambda: engine.embed(texts))
        except EngineError as error:
            raise RequestError(400, error.message) from error
        self.usage.prompt_tokens = embeddings.n_tokens
        return embeddings.vectors

    async def close(self) -> None:
        """End the request; safe to call twice."""
        await self.stack.aclose()


@dataclass(frozen=True)
class Service:
    """What every API of the server stands on."""

    pool: Pool
    meter: Meter

    async def open(self, request: Request, name: str, *, embeddings: bool = False) -> Job:
        """Admit a request and give it its model; the caller closes the job.

        Raises:
            RequestError: over a limit, unknown model, not enough memory.
        """
        usage = Usage(request_id=str(uuid.uuid4()))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.meter.counting(request.state.key, usage))
            lease = await stack.enter_async_context(self.pool.lease(name, embeddings=embeddings))
            usage.model = str(lease.name)
            usage.adapter = lease.adapter
            return Job(lease=lease, usage=usage, stack=stack.pop_all())


class PieceStream(StreamingResponse):
    """A streamed answer that closes its job however it ends, also when it never began."""

    def __init__(
        self,
        job: Job,
        lines: AsyncIterator[str],
        *,
        say_error: Callable[[RequestError], str],
        media_type: str,
    ) -> None:
        super().__init__(ending_with_error(lines, say_error), media_type=media_type)
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            async with aclosing(self.body_iterator):  # type: ignore[type-var]  # an async generator
                await super().__call__(scope, receive, send)
        finally:
            await self.job.close()


async def ending_with_error(
    lines: AsyncIterator[str], say_error: Callable[[RequestError], str]
) -> AsyncIterator[str]:
    """Give lines; an error in their middle, too late for a status, becomes the last one."""
    try:
        async for line in lines:
            yield line
    except RequestError as error:
        yield say_error(error)
