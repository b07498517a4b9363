"""Databases to keep keys and usage in: SQLite, and a real PostgreSQL server on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from llamune.serve import open_database
from tests.concurrency import PATIENCE_SECONDS, free_port, wait_until


def postgres_program(name: str) -> str | None:
    """Return the path of a PostgreSQL program; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Start a PostgreSQL server for the tests and return its URL."""
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or server is None:
        pytest.skip("no PostgreSQL server is installed")
    with tempfile.TemporaryDirectory(prefix="llamune-postgres-") as name:
        yield from serve_postgres(Path(name), initdb=initdb, server=server)


def serve_postgres(folder: Path, *, initdb: str, server: str) -> Iterator[str]:
    """Run a server whose files lie in `folder` and yield its URL."""
    # it refuses to run as root
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres")
    port = free_port()
    data = folder / "data"
    subprocess.run(
        [
            *user,
            initdb,
            "-D",
            str(data),
            "-U",
            "llamune",
            "-A",
            "trust",
            "--no-sync",
            "--locale=C",
            "-E",
            "UTF8",
        ],
        check=True,
        capture_output=True,
    )
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*user, server, "-D", str(data), *options], stderr=log)
    try:
        ready = postgres_program("pg_isready")
        assert ready is not None
        answers = [ready, "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: process.poll() is not None or not subprocess.call(answers))
        assert process.poll() is None, (folder / "log").read_text()
        yield f"postgresql+psycopg://llamune@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_SECONDS)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Return an empty database of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    engine = open_database(url)
    if request.param == "postgres":
        with engine.begin() as connection:
            connection.execute(text("TRUNCATE api_key, request RESTART IDENTITY"))
    yield engine
    engine.dispose()
