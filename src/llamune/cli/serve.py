"""`llamune serve`: the library over HTTP, in OpenAI's and Ollama's words."""

from __future__ import annotations

import ipaddress
import logging
from typing import Annotated

import typer

from llamune.cli import _screen
from llamune.errors import LlamuneError

PORT = 11435  # one above Ollama's, so that both can run


def command(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 takes a free one")] = PORT,
    keys: Annotated[
        bool, typer.Option("--keys", help="ask for an API key on loopback too")
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="web origin, as https://example.com, whose pages may call"),
    ] = None,
    context: Annotated[int | None, typer.Option(help="tokens of context a request may use")] = None,
    parallel: Annotated[
        int, typer.Option(help="requests that one base works on at the same time", min=1)
    ] = 4,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    idle: Annotated[float, typer.Option(help="seconds after which an idle model is let go")] = 300,
    database: Annotated[
        str | None,
        typer.Option(help="database URL; default $LLAMUNE_DATABASE_URL, else SQLite in the home"),
    ] = None,
) -> None:
    """Serve every model and adapter of the library, one base in memory for all its adapters.

    Speaks OpenAI's API under /v1 and Ollama's under /api. Beyond loopback a key is needed
    (`llamune keys create NAME`), and what each key uses is counted (`llamune usage`).
    """
    try:
        import uvicorn

        from llamune import serve
    except ImportError as error:
        raise LlamuneError(
            f"{error.name} is not installed", hint="install it with: pip install 'llamune[serve]'"
        ) from error
    from llamune.store import library

    with_keys = keys or not is_loopback(host)
    opened = serve.open_database(database)
    if with_keys and not any(key.revoked_ms is None for key in serve.list_keys(opened)):
        raise LlamuneError(
            f"listening on {host} needs an API key, and there is none",
            hint="make one with: llamune keys create NAME",
        )
    app = serve.create_app(
        library(),
        opened,
        with_keys=with_keys,
        origins=frozenset(allow_origin or ()),
        n_ctx=context,
        n_parallel=parallel,
        n_threads=threads,
        idle_seconds=idle,
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    server = uvicorn.Server(
        uvicorn.Config(
            app, host=host, port=port, log_level="warning", lifespan="on", server_header=False
        )
    )
    config = server.config
    socket = config.bind_socket()
    socket.listen()  # who reads the next line may connect at once
    _screen.note(f"listening on http://{host}:{socket.getsockname()[1]} (Ctrl-C stops)")
    server.run(sockets=[socket])


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
