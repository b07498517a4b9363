"""SHA-256 digests as stores write them, matched in full before they become a path."""

from __future__ import annotations

import hashlib
import re

from llamune.store.errors import DamagedError

__all__ = ["blob_file_name", "digest_of", "digest_of_file_name", "digests_in", "parse_digest"]

DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


def parse_digest(text: object, *, where: str) -> str:
    """Return `text` as `sha256:<64 lower-case hex digits>`.

    Args:
        text: a digest with `:` or `-`.
        where: the file that holds it, for the message.

    Raises:
        DamagedError: it is anything else; `../` and other tricks never reach a path.
    """
    match = DIGEST.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise DamagedError(f"{where}: {str(text)[:100]!r} is not a SHA-256 digest")
    return f"sha256:{match[1].lower()}"


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_file_name(digest: str) -> str:
    """Return the file name under which a store keeps a blob."""
    return parse_digest(digest, where="blob").replace(":", "-")


def digest_of_file_name(name: str) -> str | None:
    """Return the digest that a blob's file name stands for, or None for any other file."""
    match = DIGEST.fullmatch(name)
    return f"sha256:{match[1].lower()}" if match and name.startswith("sha256-") else None


def digests_in(text: str) -> set[str]:
    """Return everything in `text` that looks like a digest."""
    return {f"sha256:{found.lower()}" for found in DIGEST.findall(text)}
