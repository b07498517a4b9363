"""API keys: made once, shown once, kept as a hash.

A key holds 256 random bits, so one SHA-256 is as good a hash as a slow one: nothing can be
guessed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from llamune.errors import LlamuneError
from llamune.serve.database import key_table, now_ms

__all__ = ["Key", "create_key", "find_key", "list_keys", "revoke_key"]

PREFIX = "lln_"
NAME = re.compile(r"[\w.@ -]{1,80}")


@dataclass(frozen=True)
class Key:
    """One API key as the database knows it; the key itself is not kept."""

    id: int
    name: str
    hint: str  # the first characters, enough to tell keys apart
    created_ms: int
    revoked_ms: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None


def digest_of(key: str) -> str:
    """Return the hash under which a key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


def create_key(
    database: Engine,
    name: str,
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> str:
    """Make a key and return it; it cannot be shown again.

    Raises:
        LlamuneError: the name is taken or not usable, or a limit is below one.
    """
    if not NAME.fullmatch(name):
        raise LlamuneError(f"key name {name!r}: 1 to 80 letters, digits, space or . _ @ -")
    for label, limit in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
        if limit is not None and limit < 1:
            raise LlamuneError(f"{label} per minute: {limit} is below 1")
    key = PREFIX + secrets.token_urlsafe(32)
    row = {
        "name": name,
        "digest": digest_of(key),
        "hint": key[: len(PREFIX) + 4],
        "created_ms": now_ms(),
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    try:
        with database.begin() as connection:
            connection.execute(insert(key_table).values(row))
    except IntegrityError as error:
        raise LlamuneError(
            f"key name {name!r} is taken", hint="`llamune keys list` shows the names in use"
        ) from error
    return key


def list_keys(database: Engine) -> list[Key]:
    """Return all keys, the revoked ones too, oldest first."""
    with database.connect() as connection:
        rows = connection.execute(select(*columns()).order_by(key_table.c.id))
        return [Key(*row) for row in rows]


def find_key(database: Engine, key: str) -> Key | None:
    """Return what is known of a key that a client sent; None if unknown or revoked."""
    query = select(*columns()).where(
        key_table.c.digest == digest_of(key), key_table.c.revoked_ms.is_(None)
    )
    with database.connect() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else Key(*row)


def revoke_key(database: Engine, name: str) -> None:
    """Make a key useless from now on; what it used stays counted.

    Raises:
        LlamuneError: there is no key of that name, or it is revoked already.
    """
    change = (
        update(key_table)
        .where(key_table.c.name == name, key_table.c.revoked_ms.is_(None))
        .values(revoked_ms=now_ms())
    )
    with database.begin() as connection:
        changed = connection.execute(change).rowcount
    if changed == 0:
        raise LlamuneError(
            f"no key named {name!r} is in force", hint="`llamune keys list` shows the names"
        )


def columns() -> list[ColumnElement[Any]]:
    """Return the columns of `Key`, in its order."""
    return [key_table.c[name] for name in Key.__dataclass_fields__]
