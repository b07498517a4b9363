"""Where keys and finished requests are kept: SQLite by default, PostgreSQL by URL.

Times are integers, milliseconds since 1970-01-01 UTC, so that every database groups them alike.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from llamune.errors import LlamuneError
from llamune.store import home

__all__ = ["DatabaseError", "key_table", "now_ms", "open_database", "request_table"]

URL_VARIABLE = "LLAMUNE_DATABASE_URL"
NAME_LENGTH = 400  # the longest model name of design section 4 with every part at its limit fits

metadata = MetaData()

key_table = Table(
    "api_key",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(80), nullable=False, unique=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("hint", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
)

request_table = Table(
    "request",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("key_id", Integer, ForeignKey("api_key.id")),
    Column("model", String(NAME_LENGTH), nullable=False),
    Column("adapter", String(NAME_LENGTH)),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("finished_ms", BigInteger, nullable=False),
    Index("request_finished", "finished_ms"),
)


class DatabaseError(LlamuneError):
    """The database cannot be reached, or its URL cannot be read."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


def default_path() -> Path:
    """Return where the SQLite file lies when no URL is given."""
    return home() / "serve.sqlite3"


def open_database(url: str | None = None) -> Engine:
    """Open the database and make its tables where they are missing.

    Args:
        url: an SQLAlchemy URL such as `postgresql+psycopg://…`; default the environment's
            `LLAMUNE_DATABASE_URL`, else a SQLite file under `$LLAMUNE_HOME`.

    Raises:
        DatabaseError: the URL cannot be read, its driver is missing, or nobody answers.
    """
    chosen = url or os.environ.get(URL_VARIABLE)
    if chosen is None:
        path = default_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = f"sqlite:///{path}"
    try:
        engine = create_engine(chosen, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", prepare_sqlite)
        metadata.create_all(engine)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise DatabaseError(
            f"database URL cannot be used: {error}",
            hint="for example postgresql+psycopg://user@host/name, with psycopg installed",
        ) from error
    except OperationalError as error:
        raise DatabaseError(f"database does not answer: {error.orig}") from error
    return engine


def prepare_sqlite(connection: object, _record: object) -> None:
    """Let readers and one writer work at once, and wait for a lock instead of failing."""
    cursor = connection.cursor()  # type: ignore[attr-defined]  # a DB-API connection, untyped
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
