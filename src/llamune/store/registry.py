"""Talking to a registry that speaks the OCI distribution protocol.

Plain HTTP goes to this machine only. A redirect (registries keep blobs in object stores) may
neither fall back to plain HTTP nor lead from outside to this machine, and takes no credentials
along to another host. A token is fetched where the registry asks for one; credentials come from
where `docker login` puts them.

Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from llamune.store.errors import StoreError
from llamune.store.names import ModelName

__all__ = ["Registry", "RegistryError", "is_loopback"]

TIMEOUT = httpx.Timeout(60.0, connect=15.0)
MAX_REDIRECTS = 5
PASSING = (408, 429, 500, 502, 503, 504)
MAX_ERROR_BYTES = 64 << 10
MAX_TOKEN_BYTES = 1 << 20
CHALLENGE = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


class RegistryError(StoreError):
    """A registry cannot be reached, refuses, or answers what the protocol does not allow.

    Args:
        message: what happened.
        hint: what to do about it.
        passing: whether trying again soon may help.
    """

    def __init__(self, message: str, *, hint: str | None = None, passing: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing


class Registry:
    """The repository of one model in one registry. Use `with`.

    Args:
        name: the model's name; its host says where the registry is.

    Attributes:
        base: address of the repository, without a slash at its end.
        stop: set when one transfer failed, so that those beside it end too.
    """

    def __init__(self, name: ModelName) -> None:
        scheme = "http" if is_loopback(urlsplit(f"//{name.host}").hostname or "") else "https"
        self.host = name.host
        self.origin = f"{scheme}://{name.host}"
        self.base = f"{self.origin}/v2/{name.namespace}/{name.model}"
        self.headers: dict[str, str] = {}
        self.stop = threading.Event()
        self.client = httpx.Client(
            timeout=TIMEOUT,
            trust_env=scheme == "https",  # no proxy on the way to this machine
            headers={"User-Agent": "llamune", "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def url(self, location: str) -> str:
        """Return the full address of a path or of a `Location` header.

        Raises:
            RegistryError: it would leave the kind of connection that we began with.
        """
        return self.joined(f"{self.base}/", location)

    def joined(self, base: str, location: str) -> str:
        """Return a location as seen from an address, checked."""
        try:
            full = str(httpx.URL(base).join(location))
            self.check_address(full)
        except (httpx.InvalidURL, ValueError) as error:
            raise RegistryError(f"{self.host}: {location[:200]!r} is no address") from error
        return full

    def check_address(self, url: str) -> None:
        """Refuse an address that a registry must not send us to.

        Raises:
            RegistryError: plain HTTP to another machine, or from outside to this one.
        """
        parts = urlsplit(url)
        inside = is_loopback(parts.hostname or "")
        if parts.scheme != "https" and not (parts.scheme == "http" and inside):
            raise RegistryError(
                f"{self.host}: leads to {url[:200]}", hint="only HTTPS goes to other machines"
            )
        if inside and not is_loopback(urlsplit(self.origin).hostname or ""):
            raise RegistryError(f"{self.host}: leads to this machine ({url[:200]})")

    @contextmanager
    def request(
        self,
        method: str,
        location: str,
        *,
        accepted: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        content: Any = None,
    ) -> Iterator[httpx.Response]:
        """Send a request and yield the answer, its body unread.

        Args:
            method: of HTTP.
            location: a path below the repository, or a full address.
            accepted: status codes that are no error.
            headers: added to the usual ones.
            content: the body; bytes, or a function that returns an iterator over bytes anew.

        Raises:
            RegistryError: any other status, too many redirects, or the connection failed.
        """
        url = self.url(location)
        logged_in = False
        for _ in range(MAX_REDIRECTS + 2):
            own = urlsplit(url)[:2] == urlsplit(self.origin)[:2]
            built = self.client.build_request(
                method,
                url,
                headers={**(headers or {}), **(self.headers if own else {})},
                content=content() if callable(content) else content,
            )
            response = self.send(built)
            try:
                if response.status_code in accepted:
                    yield response
                    if method != "GET":  # read to its end, it leaves the connection open
                        with suppress(httpx.TransportError):
                            capped(response, MAX_ERROR_BYTES)
                    return
                if response.has_redirect_location:
                    url = self.joined(url, response.headers["location"])
                elif response.status_code == 401 and own and not logged_in:
                    logged_in = True
                    self.log_in(response.headers.get("www-authenticate", ""))
                else:
                    raise RegistryError(
                        f"{method} {url[:200]}: {reason(response)}",
                        passing=response.status_code in PASSING,
                    )
            finally:
                response.close()
        raise RegistryError(f"{method} {url[:200]}: more than {MAX_REDIRECTS} redirects")

    def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the answer, its body unread.

        Raises:
            RegistryError: the connection failed.
        """
        try:
            return self.client.send(request, stream=True)
        except httpx.TransportError as error:
            raise self.cut(error) from error

    def cut(self, error: httpx.TransportError) -> RegistryError:
        """Return the error for a connection that failed."""
        text = str(error) or type(error).__name__
        return RegistryError(
            f"{self.host}: the connection failed ({text})",
            hint="the same command goes on where it stopped",
            passing=True,
        )

    def pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """Yield the body of an answer as it arrives.

        Raises:
            RegistryError: the connection was cut, or a transfer beside this one has failed.
        """
        try:
            for piece in response.iter_raw():
                if self.stop.is_set():
                    raise RegistryError(f"{self.host}: stopped")
                yield piece
        except httpx.TransportError as error:
            raise self.cut(error) from error

    def log_in(self, challenge: str) -> None:
        """Answer a registry that wants to know who asks.

        Raises:
            RegistryError: it wants a scheme that we do not know, or has no token for us.
        """
        scheme, _, rest = challenge.partition(" ")
        wanted = dict(CHALLENGE.findall(rest))
        credentials = stored_credentials(self.host)
        if scheme.lower() == "basic" and credentials:
            self.headers["Authorization"] = f"Basic {credentials}"
            return
        if scheme.lower() != "bearer" or "realm" not in wanted:
            raise RegistryError(
                f"{self.host}: asks for a login", hint=f"log in first: docker login {self.host}"
            )
        realm = self.joined(self.base, wanted["realm"])
        query = {key: wanted[key] for key in ("service", "scope") if key in wanted}
        asking = self.client.build_request(
            "GET",
            realm,
            params=query,
            headers={"Authorization": f"Basic {credentials}"} if credentials else {},
        )
        answer = self.send(asking)
        try:
            body = json.loads(capped(answer, MAX_TOKEN_BYTES))
            token = body.get("token") or body["access_token"]
        except (httpx.HTTPError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise RegistryError(
                f"{self.host}: gives no token (status {answer.status_code})",
                hint=f"log in first: docker login {self.host}",
            ) from error
        finally:
            answer.close()
        self.headers["Authorization"] = f"Bearer {token}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reason(response: httpx.Response) -> str:
    """Return what a registry says is wrong, in one line."""
    try:
        faults = json.loads(capped(response, MAX_ERROR_BYTES))["errors"]
        told = "; ".join(f"{fault.get('code')}: {fault.get('message')}" for fault in faults)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        told = response.reason_phrase or "no reason given"
    return f"status {response.status_code}, {told[:300]}"


def capped(response: httpx.Response, limit: int) -> bytes:
    """Return the first bytes of a body that should be small."""
    received = b""
    for piece in response.iter_raw():
        received += piece
        if len(received) > limit:
            break
    return received[:limit]


def stored_credentials(host: str) -> str | None:
    """Return the base64 user and password that `docker login` keeps for a host, if any."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        entry = json.loads((folder / "config.json").read_bytes())["auths"][host]["auth"]
        base64.b64decode(entry, validate=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(entry)
