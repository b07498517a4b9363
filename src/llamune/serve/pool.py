"""Which models are in memory: one engine a base, all its adapters attached, idle ones let go.

An engine of llama.cpp takes its adapters when it opens. When a new adapter of a base that is
loaded gets published, a second engine of the same base opens beside the first (the weights are
mapped and shared), takes all requests from then on, and the first closes after its last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from llamune.engine import AdapterFile, EmbeddedEngine, NativeModel
from llamune.errors import LlamuneError
from llamune.serve.errors import RequestError
from llamune.serve.streams import in_thread
from llamune.store import Adapter, Model, ModelName, Store, UnknownModelError, model_of_name

__all__ = ["Lease", "Loaded", "Pool"]

SWEEP_SECONDS = 1.0

logger = logging.getLogger(__name__)


class OpenEngine(Protocol):
    """Opens an engine for a base with some adapters, named by their digests."""

    def __call__(
        self, model: Model, adapters: Sequence[Adapter], *, embeddings: bool
    ) -> EmbeddedEngine:
        """Return the engine, ready to answer, or to embed."""


@dataclass(eq=False)
class Loaded:
    """An engine in memory and who uses it."""

    model: Model  # any model of the base; its own adapters do not matter
    adapters: frozenset[str]
    engine: EmbeddedEngine
    n_bytes: int  # what it was expected to take when it was loaded
    adapter_files: tuple[AdapterFile, ...]
    scorer: NativeModel | None = None  # a second view of the mapped weights, opened when asked for
    scorer_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    views: dict[str, tuple[Model, EmbeddedEngine]] = field(default_factory=dict)
    n_leases: int = 0
    last_used: float = field(default_factory=time.monotonic)
    superseded: bool = False

    def view(self, model: Model) -> EmbeddedEngine:
        """Return the engine as one of the base's models.

        A model that has not changed keeps its view, and with it its tokenizer and template.
        """
        known = self.views.get(str(model))
        if known is None or known[0] != model:
            known = (model, self.engine.as_model(model))
            self.views[str(model)] = known
        return known[1]


@dataclass(frozen=True)
class Lease:
    """The use of a model for one request."""

    name: ModelName
    model: Model
    engine: EmbeddedEngine
    load_seconds: float
    loaded: Loaded

    @property
    def adapter(self) -> str | None:
        """The digest of the adapter in use, None for a plain model."""
        return "+".join(adapters_of(self.model)) or None

    @property
    def adapter_files(self) -> list[AdapterFile]:
        """The adapters in use, as the scorer takes them."""
        return [
            AdapterFile(path=adapter.path, scale=adapter.scale) for adapter in self.model.adapters
        ]

    async def scorer(self) -> NativeModel:
        """Return the model as one that gives whole distributions, opening it the first time.

        Raises:
            RequestError: 422, it does not load.
        """
        loaded = self.loaded
        async with loaded.scorer_lock:
            if loaded.scorer is None:
                try:
                    loaded.scorer = await in_thread(
                        lambda: NativeModel(self.model.paths, adapters=loaded.adapter_files)
                    )
                except LlamuneError as error:
                    raise unusable(str(self.name), error) from error
            return loaded.scorer


class Pool:
    """The engines of a server.

    Args:
        store: whose models are served.
        open_engine: opens an engine; runs in a thread.
        memory_needed: bytes that a model will take when it runs.
        memory_free: bytes that may be taken now.
        idle_seconds: after how long without a request an engine is closed.
    """

    def __init__(
        self,
        store: Store,
        *,
        open_engine: OpenEngine,
        memory_needed: Callable[[Model], int],
        memory_free: Callable[[], int],
        idle_seconds: float,
    ) -> None:
        self.store = store
        self.open_engine = open_engine
        self.memory_needed = memory_needed
        self.memory_free = memory_free
        self.idle_seconds = idle_seconds
        self.loaded: dict[tuple[str, ...], Loaded] = {}
        self.draining: set[Loaded] = set()
        self.opening: dict[tuple[str, ...], asyncio.Lock] = {}

    def find(self, name: str) -> Model:
        """Return the model of a name; only names are looked up, never paths.

        Raises:
            RequestError: 404 when there is no such model, 422 when it cannot be used.
        """
        parsed = ModelName.maybe(name)
        if parsed is None:
            raise unknown(name)
        try:
            return model_of_name(self.store, parsed)
        except UnknownModelError as error:
            raise unknown(name) from error
        except LlamuneError as error:
            raise unusable(str(parsed), error) from error

    @asynccontextmanager
    async def lease(self, name: str, *, embeddings: bool = False) -> AsyncIterator[Lease]:
        """Give the use of a model, loading it first where it is not in memory.

        Args:
            name: the model's name.
            embeddings: whether it is to embed, which takes an engine of its own.

        Raises:
            RequestError: 404 unknown, 422 unusable, 503 not enough memory now.
        """
        started = time.monotonic()
        model = await in_thread(lambda: self.find(name))
        loaded = await self.obtain(model, embeddings=embeddings)
        loaded.n_leases += 1
        try:
            yield Lease(
                name=model.name or ModelName.parse(name),
                model=model,
                engine=loaded.view(model),
                load_seconds=time.monotonic() - started,
                loaded=loaded,
            )
        finally:
            loaded.n_leases -= 1
            loaded.last_used = time.monotonic()
            if loaded.superseded and loaded.n_leases == 0:
                await self.close(loaded)

    async def obtain(self, model: Model, *, embeddings: bool) -> Loaded:
        """Return an engine that has the model's base and adapters."""
        base = base_of(model)
        place = (*base, "embeddings") if embeddings else base
        wanted = adapters_of(model)
        async with self.opening.setdefault(place, asyncio.Lock()):
            found = self.loaded.get(place)
            if found is not None and found.adapters >= wanted.keys():
                return found
            siblings = await in_thread(lambda: self.adapters_of_base(base)) | wanted
            try:
                n_bytes = await in_thread(lambda: self.memory_needed(model))
            except LlamuneError as error:
                raise unusable(str(model), error) from error
            await self.make_room(n_bytes)
            try:
                engine = await in_thread(
                    lambda: self.open_engine(model, list(siblings.values()), embeddings=embeddings)
                )
            except LlamuneError as error:
                raise unusable(str(model), error) from error
            files = [AdapterFile(path=adapter.path) for adapter in siblings.values()]
            fresh = Loaded(model, frozenset(siblings), engine, n_bytes, tuple(files))
            self.loaded[place] = fresh
            if found is not None and not found.superseded:  # it may have made room already
                await self.retire(found)
            return fresh

    def adapters_of_base(self, base: tuple[str, ...]) -> dict[str, Adapter]:
        """Return the adapters of every model in the store that stands on a base, by digest."""
        adapters: dict[str, Adapter] = {}
        for name in self.store.names():
            with contextlib.suppress(LlamuneError):  # a damaged model is no reason to fail others
                model = model_of_name(self.store, name)
                if base_of(model) == base:
                    adapters |= adapters_of(model)
        return adapters

    async def make_room(self, n_bytes: int) -> None:
        """Close idle engines, the longest unused first, until enough memory is free.

        Raises:
            RequestError: 503 when what is left is in use.
        """
        while (free := self.memory_free()) < n_bytes:
            idle = [
                (loaded.last_used, base)
                for base, loaded in self.loaded.items()
                if loaded.n_leases == 0
            ]
            if not idle:
                raise RequestError(
                    503,
                    f"the model needs about {n_bytes / 1e9:.1f} GB of memory, "
                    f"{free / 1e9:.1f} GB are free",
                    code="not_enough_memory",
                    retry_after_seconds=30,
                )
            await self.retire(self.loaded.pop(min(idle)[1]))

    async def retire(self, loaded: Loaded) -> None:
        """Close an engine now, or after its last request."""
        loaded.superseded = True
        if loaded.n_leases == 0:
            await self.close(loaded)
        else:
            self.draining.add(loaded)

    async def close(self, loaded: Loaded) -> None:
        """Let go of an engine's memory."""
        self.draining.discard(loaded)
        await asyncio.shield(in_thread(loaded.engine.close))
        if loaded.scorer is not None:
            await asyncio.shield(in_thread(loaded.scorer.close))

    async def sweep(self) -> None:
        """Close engines that nobody has used for long; runs until it is cancelled."""
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self.idle_seconds))
            limit = time.monotonic() - self.idle_seconds
            for base, loaded in list(self.loaded.items()):
                if loaded.n_leases == 0 and loaded.last_used < limit:
                    await self.retire(self.loaded.pop(base))

    async def close_all(self) -> None:
        """Close every engine."""
        everything = [*self.loaded.values(), *self.draining]
        self.loaded.clear()
        for loaded in everything:
            await self.close(loaded)

    async def unload(self, model: Model) -> None:
        """Let go of a model's base, as soon as nobody uses it."""
        base = base_of(model)
        for place in (base, (*base, "embeddings")):
            if (loaded := self.loaded.pop(place, None)) is not None:
                await self.retire(loaded)


def unknown(name: str) -> RequestError:
    """Return the answer to a name that is not in the library."""
    return RequestError(404, f"model '{name}' not found", code="model_not_found", param="model")


def unusable(name: str, error: LlamuneError) -> RequestError:
    """Return the answer to a model that is there but does not load; why is for the log alone."""
    logger.warning("%s cannot be used: %s", name, error.message)
    return RequestError(
        422, f"model '{name}' cannot be used; the server's log says why", param="model"
    )


def base_of(model: Model) -> tuple[str, ...]:
    """Return what identifies a model's base: its digest, or its files."""
    if model.digest is not None:
        return (model.digest,)
    return tuple(str(path) for path in model.paths)


def adapters_of(model: Model) -> dict[str, Adapter]:
    """Return a model's adapters by digest."""
    return {adapter.digest or str(adapter.path): adapter for adapter in model.adapters}
