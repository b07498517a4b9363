"""The door of the server: who may come in, from where, and with how much.

Without keys the server answers only on loopback, where any page in a browser could still reach
it: a page of a foreign origin is refused by its `Origin`, and one that made its own name point
at 127.0.0.1 (DNS rebinding) by its `Host`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llamune.serve.errors import RequestError, error_body
from llamune.serve.keys import Key

__all__ = ["Guard", "GuardSettings"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BLOB_PATH = "/api/blobs/"
ENTITY_TOO_LARGE = 413
TOO_SLOW = 408


@dataclass(frozen=True)
class GuardSettings:
    """What the door lets through."""

    find_key: Callable[[str], Key | None] | None  # None: no key is asked for, loopback only
    origins: Collection[str] = field(default_factory=frozenset)  # foreign origins let in
    max_body_bytes: int = 32 << 20  # of everything but blobs
    max_blob_bytes: int = 256 << 30
    idle_seconds: float = 30.0  # the longest pause between two pieces of a body


class Guard:
    """ASGI middleware that checks origin, host, key and body before the application sees them."""

    def __init__(self, app: App, settings: GuardSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        path = scope["path"]
        try:
            self.check_host(headers.get("host", ""))
            self.check_origin(headers.get("origin"))
            is_preflight = scope["method"] == "OPTIONS"  # a browser sends it without the key
            key = None if is_preflight else await self.key_of(headers.get("authorization"))
            scope.setdefault("state", {})["key"] = key
            body = Body(receive, limit=self.body_limit(path), settings=self.settings)
            body.check_length(headers.get("content-length"))
        except RequestError as error:
            await answer(path, error, send)
            return
        await self.pass_on(scope, body, send)

    async def pass_on(self, scope: Scope, body: Body, send: Send) -> None:
        """Let the application answer, unless the body turns out to be at fault first."""
        started = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            # a framework turns an error from `receive` into one of its own: ours is the better
            if body.refusal is None or started:
                started = True
                await send(message)

        try:
            await self.app(scope, body.receive, send_unless_refused)
        except RequestError:
            if body.refusal is None or started:
                raise
        if body.refusal is not None and not started:
            await answer(scope["path"], body.refusal, send)

    def check_host(self, host: str) -> None:
        """Refuse a `Host` that is no loopback name, where no key is asked for."""
        if self.settings.find_key is None and not is_loopback(host_name(host)):
            raise RequestError(403, "this server answers to loopback names only")

    def check_origin(self, origin: str | None) -> None:
        """Refuse a page of a foreign origin."""
        if origin is None or origin in self.settings.origins:
            return
        if not is_loopback(urlsplit(origin).hostname or ""):
            raise RequestError(403, "cross-origin requests are not allowed")

    async def key_of(self, authorization: str | None) -> Key | None:
        """Return the key that a request brings; None where none is asked for."""
        if self.settings.find_key is None:
            return None
        scheme, _, sent = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise RequestError(401, "an API key is needed", code="missing_api_key")
        key = await asyncio.to_thread(self.settings.find_key, sent.strip())
        if key is None:
            raise RequestError(401, "the API key is not valid", code="invalid_api_key")
        return key

    def body_limit(self, path: str) -> int:
        """Return the most bytes that a body may have."""
        if path.startswith(BLOB_PATH):
            return self.settings.max_blob_bytes
        return self.settings.max_body_bytes


class Body:
    """A request's body as it comes in, stopped when it is too large or too slow."""

    def __init__(self, receive: Receive, *, limit: int, settings: GuardSettings) -> None:
        self.source = receive
        self.limit = limit
        self.idle_seconds = settings.idle_seconds
        self.received = 0
        self.complete = False
        self.refusal: RequestError | None = None

    def check_length(self, content_length: str | None) -> None:
        """Refuse a body that says beforehand that it is too large."""
        if content_length is None:
            return
        if not content_length.isdecimal():
            raise RequestError(400, "Content-Length is not a number")
        if int(content_length) > self.limit:
            raise self.too_large()

    def too_large(self) -> RequestError:
        """Return the refusal of a body over the limit."""
        return RequestError(ENTITY_TOO_LARGE, f"the body is larger than {self.limit:,} bytes")

    async def receive(self) -> Message:
        """Return the next piece.

        Raises:
            RequestError: there is too much of it, or it took too long; kept in `refusal`.
        """
        if self.complete:  # what is left to come is the client's leaving, whenever that is
            return await self.source()
        try:
            message = await asyncio.wait_for(self.source(), self.idle_seconds)
        except TimeoutError as error:
            self.refusal = RequestError(TOO_SLOW, "the body came too slowly")
            raise self.refusal from error
        self.received += len(message.get("body", b""))
        if self.received > self.limit:
            self.refusal = self.too_large()
            raise self.refusal
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


async def answer(path: str, error: RequestError, send: Send) -> None:
    """Send an error as the whole response."""
    body = json.dumps(error_body(path, error)).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **error.headers,
    }
    if error.status in {ENTITY_TOO_LARGE, TOO_SLOW}:  # the rest of the body is not read
        headers["Connection"] = "close"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def host_name(host: str) -> str:
    """Return the name in a `Host` header, without its port."""
    return urlsplit(f"//{host}").hostname or "" if host else ""


def is_loopback(name: str) -> bool:
    """Whether a host name or address means this machine."""
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
