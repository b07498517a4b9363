"""A blind vote on a local page: a pair of answers at a time, on loopback, behind a random path."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["VotePage"]

MAX_BODY_BYTES = 1000
CHOICES = ("left", "right", "tie")
CLOSING_SECONDS = 0.05  # how often the server looks whether it should stop


class VotePage:
    """Serves a page until every pair has its vote, or the person stops.

    Args:
        page: the HTML; it asks `pair` and posts to `vote` beside its own address.
        pairs: what `pair` answers, one after the other: prompt and two texts, no names.
        cast: called with the number of the pair and `left`, `right` or `tie`.
    """

    def __init__(
        self,
        page: str,
        pairs: Sequence[dict[str, str]],
        cast: Callable[[int, str], object],
    ) -> None:
        self._page = page.encode()
        self._pairs = list(pairs)
        self._cast = cast
        self._place = 0
        self._lock = threading.Lock()
        self._secret = secrets.token_urlsafe(16)
        self.finished = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(CLOSING_SECONDS,), daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """Where the page is; nobody else can guess it."""
        return f"http://127.0.0.1:{self._server.server_port}/{self._secret}/"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def current(self) -> dict[str, Any]:
        """Return the pair to vote on, with its number; only the count when all are done."""
        with self._lock:
            state: dict[str, Any] = {"place": self._place, "n": len(self._pairs)}
            if self._place < len(self._pairs):
                return state | self._pairs[self._place]
            return state

    def vote(self, place: int, choice: str) -> bool:
        """Take a vote; False where it is not for the current pair or not a choice."""
        with self._lock:
            if place != self._place or place >= len(self._pairs) or choice not in CHOICES:
                return False
            self._cast(place, choice)
            self._place += 1
            if self._place == len(self._pairs):
                self.finished.set()
            return True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == f"/{owner._secret}/":
                    self.reply(200, owner._page, "text/html; charset=utf-8")
                elif self.path == f"/{owner._secret}/pair":
                    self.reply(200, json.dumps(owner.current()).encode(), "application/json")
                else:
                    self.reply(404, b"", "text/plain")

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if self.path != f"/{owner._secret}/vote" or not 0 < length <= MAX_BODY_BYTES:
                    self.reply(404, b"", "text/plain")
                    return
                try:
                    body = json.loads(self.rfile.read(length))
                    taken = owner.vote(int(body["place"]), str(body["choice"]))
                except (ValueError, KeyError, TypeError):
                    taken = False
                self.reply(200 if taken else 400, b"{}", "application/json")

            def reply(self, status: int, data: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
