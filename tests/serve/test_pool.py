"""One engine a base: shared by its adapters, renewed for new ones, let go when idle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llamune.serve.errors import RequestError
from llamune.serve.pool import Pool
from llamune.store import Adapter, Model, library, publish_adapter, publish_model
from tests.concurrency import PATIENCE_SECONDS
from tests.serve.fakes import FakeEngine, tiny_gguf, tiny_library


class Engines:
    """Opens fake engines and remembers them."""

    def __init__(self) -> None:
        self.opened: list[FakeEngine] = []

    def __call__(self, model: Model, adapters: Sequence[Adapter], *, embeddings: bool) -> Any:
        engine = FakeEngine(adapters)
        self.opened.append(engine)
        return engine


def pool_of(engines: Engines, *, free: int = 10**12, idle_seconds: float = 60) -> Pool:
    """Return a pool over the library."""
    return Pool(
        library(),
        open_engine=engines,
        memory_needed=lambda _: 1000,
        memory_free=lambda: free - 1000 * sum(not engine.closed for engine in engines.opened),
        idle_seconds=idle_seconds,
    )


def test_adapters_of_one_base_share_an_engine(tmp_path: Path) -> None:
    tiny_library(library(), tmp_path)
    engines = Engines()

    async def use() -> None:
        pool = pool_of(engines)
        async with pool.lease("base") as base, pool.lease("a") as a, pool.lease("b") as b:
            assert a.loaded is b.loaded is base.loaded
            assert a.adapter != b.adapter
            assert base.adapter is None
        await pool.close_all()

    asyncio.run(use())
    assert len(engines.opened) == 1
    assert len(engines.opened[0].adapters) == 2
    assert engines.opened[0].closed


def test_an_adapter_published_meanwhile_becomes_a_model_without_a_dropped_request(
    tmp_path: Path,
) -> None:
    base = tiny_library(library(), tmp_path)
    engines = Engines()

    async def use() -> None:
        pool = pool_of(engines)
        async with pool.lease("a") as before:
            publish_adapter("c", base, tiny_gguf(tmp_path, "c", kind="adapter"))
            async with pool.lease("c") as after:
                assert after.loaded is not before.loaded
                assert not engines.opened[0].closed  # its request goes on
            async with pool.lease("b") as b:
                assert b.loaded is after.loaded
        assert engines.opened[0].closed  # after its last request
        assert not engines.opened[1].closed
        await pool.close_all()

    asyncio.run(use())
    assert [len(engine.adapters) for engine in engines.opened] == [2, 3]


def test_simultaneous_first_requests_load_once(tmp_path: Path) -> None:
    tiny_library(library(), tmp_path)
    engines = Engines()

    async def use() -> None:
        pool = pool_of(engines)

        async def one(name: str) -> None:
            async with pool.lease(name):
                await asyncio.sleep(0.01)

        await asyncio.gather(*(one(name) for name in ("a", "b", "base") * 5))
        await pool.close_all()

    asyncio.run(use())
    assert len(engines.opened) == 1


def test_idle_models_are_let_go(tmp_path: Path) -> None:
    tiny_library(library(), tmp_path)
    engines = Engines()

    async def use() -> None:
        pool = pool_of(engines, idle_seconds=0.05)
        sweeping = asyncio.create_task(pool.sweep())
        async with pool.lease("a"):
            await asyncio.sleep(0.2)  # several sweeps, however late they come
            assert not engines.opened[0].closed  # in use is not idle
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not engines.opened[0].closed:
                await asyncio.sleep(0.01)
        sweeping.cancel()

    asyncio.run(use())


def test_room_is_made_by_closing_idle_models_only(tmp_path: Path) -> None:
    tiny_library(library(), tmp_path)
    publish_model("other", tiny_gguf(tmp_path, "other"))
    engines = Engines()

    async def use() -> None:
        pool = pool_of(engines, free=1500)
        async with pool.lease("base"):
            with pytest.raises(RequestError, match="GB of memory") as refused:
                async with pool.lease("other"):
                    pass
            assert refused.value.status == 503
        async with pool.lease("other"):
            assert engines.opened[0].closed
        await pool.close_all()

    asyncio.run(use())


@pytest.mark.parametrize("name", ["nope", "../../etc/passwd", "/etc/passwd", "a/b/c/d", "", "a b"])
def test_names_that_are_not_in_the_library_are_404(name: str) -> None:
    with pytest.raises(RequestError) as refused:
        pool_of(Engines()).find(name)
    assert refused.value.status == 404
