"""Who may ask how much, and what each request took."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import Engine

from llamune.serve.database import now_ms
from llamune.serve.errors import RequestError
from llamune.serve.keys import Key
from llamune.serve.streams import in_thread
from llamune.serve.usage import record_request, used_since

__all__ = ["Meter", "Usage"]

WINDOW_MS = 60_000


@dataclass(kw_only=True)
class Usage:
    """What one request took, filled in as it goes on."""

    request_id: str
    model: str = ""
    adapter: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Meter:
    """Limits and counts.

    Args:
        database: where finished requests are kept.
    """

    def __init__(self, database: Engine) -> None:
        self.database = database
        self.in_flight: Counter[int] = Counter()

    @asynccontextmanager
    async def counting(self, key: Key | None, usage: Usage) -> AsyncIterator[None]:
        """Admit a request, and count what it took when the block ends.

        Raises:
            RequestError: 429 when the key has used up its minute.
        """
        if key is not None:
            await self.admit(key)
            self.in_flight[key.id] += 1
        started_ms = now_ms()
        try:
            yield
        finally:
            if key is not None:
                self.in_flight[key.id] -= 1
            if usage.prompt_tokens or usage.completion_tokens:
                seconds = (now_ms() - started_ms) / 1000
                await asyncio.shield(in_thread(lambda: self.record(key, usage, seconds)))

    async def admit(self, key: Key) -> None:
        """Refuse a key that is over a limit of the last minute."""
        if key.requests_per_minute is None and key.tokens_per_minute is None:
            return
        since = now_ms() - WINDOW_MS
        requests, tokens = await in_thread(
            lambda: used_since(self.database, key_id=key.id, since_ms=since)
        )
        requests += self.in_flight[key.id]
        for used, limit, what in (
            (requests, key.requests_per_minute, "requests"),
            (tokens, key.tokens_per_minute, "tokens"),
        ):
            if limit is not None and used >= limit:
                raise RequestError(
                    429,
                    f"this key may use {limit:,} {what} a minute",
                    code="rate_limit_exceeded",
                    retry_after_seconds=WINDOW_MS // 1000,
                )

    def record(self, key: Key | None, usage: Usage, seconds: float) -> None:
        """Keep what a request took."""
        record_request(
            self.database,
            request_id=usage.request_id,
            key_id=None if key is None else key.id,
            model=usage.model,
            adapter=usage.adapter,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=seconds,
        )
