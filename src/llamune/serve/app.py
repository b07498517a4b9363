"""The application: both APIs over one pool of models, behind one door."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import psutil
from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy import Engine as Database
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from llamune import __version__
from llamune.engine import EmbeddedEngine, LoadedAdapter, open_engine
from llamune.serve import library_api, ollama_api, openai_api
from llamune.serve.errors import RequestError, error_body
from llamune.serve.guard import App, Guard, GuardSettings
from llamune.serve.keys import find_key
from llamune.serve.memory import memory_needed
from llamune.serve.metering import Meter
from llamune.serve.pool import Pool
from llamune.serve.service import Service
from llamune.store import Adapter, Model, Store

__all__ = ["create_app"]

IDLE_SECONDS = 300.0
THREADS = 256  # each request waits for its next piece on one

logger = logging.getLogger(__name__)


def create_app(
    store: Store,
    database: Database,
    *,
    with_keys: bool,
    origins: Collection[str] = (),
    n_ctx: int | None = None,
    n_parallel: int = 4,
    n_threads: int | None = None,
    idle_seconds: float = IDLE_SECONDS,
) -> App:
    """Return the server as an ASGI application.

    Args:
        store: whose models are served.
        database: where keys and finished requests are kept.
        with_keys: whether every request must bring a key.
        origins: foreign web origins that may call it from a browser.
        n_ctx: tokens of context a request may use; default each model's own.
        n_parallel: requests that one base works on at the same time.
        n_threads: CPU threads of one base; default one a physical core.
        idle_seconds: after how long without a request a base is let go.
    """

    def opened(model: Model, adapters: Sequence[Adapter], *, embeddings: bool) -> EmbeddedEngine:
        beside = [
            LoadedAdapter(name=adapter.digest or str(adapter.path), path=adapter.path)
            for adapter in adapters
        ]
        return open_engine(
            model,
            adapters=beside,
            n_ctx=n_ctx,
            n_parallel=n_parallel,
            n_threads=n_threads,
            embeddings=embeddings,
        )

    pool = Pool(
        store,
        open_engine=opened,
        memory_needed=lambda model: memory_needed(model, n_ctx=n_ctx, n_parallel=n_parallel),
        memory_free=lambda: int(psutil.virtual_memory().available),
        idle_seconds=idle_seconds,
    )
    app = FastAPI(title="Llamune", version=__version__, lifespan=lifespan)
    app.state.service = Service(pool=pool, meter=Meter(database))
    for router in (openai_api.router, ollama_api.router, library_api.router):
        app.include_router(router)
    app.add_exception_handler(RequestError, say_error)
    app.add_exception_handler(RequestValidationError, say_invalid)
    app.add_exception_handler(HTTPException, say_http_error)
    app.add_exception_handler(Exception, say_fault)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"]
        )
    finder = (lambda key: find_key(database, key)) if with_keys else None
    return Guard(app, GuardSettings(find_key=finder, origins=frozenset(origins)))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Let idle models go while the server runs, and all of them when it stops."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    pool: Pool = app.state.service.pool
    sweeping = asyncio.create_task(pool.sweep())
    try:
        yield
    finally:
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
        await pool.close_all()


async def say_error(request: Request, error: Exception) -> JSONResponse:
    """Answer with what the client did wrong."""
    assert isinstance(error, RequestError)  # noqa: S101  registered for this class alone
    return JSONResponse(
        error_body(request.url.path, error), status_code=error.status, headers=error.headers
    )


async def say_invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer a body that does not have the right form, naming the first field that is wrong."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this class alone
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body")
    message = f"{field}: {first['msg']}" if field else str(first["msg"])
    return await say_error(request, RequestError(400, message, param=field or None))


async def say_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a wrong path or method in the API's own shape."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class alone
    return await say_error(request, RequestError(error.status_code, str(error.detail)))


async def say_fault(request: Request, error: Exception) -> JSONResponse:
    """Answer a fault of ours without telling anything of the inside."""
    logger.error("fault while answering %s", request.url.path, exc_info=error)
    return await say_error(request, RequestError(500, "the server has a fault; its log says more"))
