"""From a model reference to an engine that answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llamune.engine.embedded import EmbeddedEngine
from llamune.engine.persona import adapters_of, persona_of
from llamune.engine.server import LoadedAdapter
from llamune.errors import LlamuneError
from llamune.store import Model, resolve

__all__ = ["adapters_named", "open_engine"]

N_CTX = 4096
"""tokens of context a request gets where neither the model nor the person says"""


def open_engine(
    model: Model,
    *,
    adapters: Sequence[LoadedAdapter] = (),
    n_ctx: int | None = None,
    n_parallel: int = 1,
    n_threads: int | None = None,
    n_gpu_layers: int = -1,
    embeddings: bool = False,
) -> EmbeddedEngine:
    """Load a model into llama.cpp in this process.

    Args:
        model: the model; its own adapters are applied.
        adapters: further adapters to load beside it.
        n_ctx: tokens of context a request may use; default the model's `num_ctx`, else 4,096.
        n_parallel: requests that are worked on at the same time.
        n_threads: CPU threads; default the idle cores.
        n_gpu_layers: layers to put on a GPU; -1 = as many as there are.
        embeddings: open the model for `embed` instead of for answers.

    Raises:
        EngineError: llama.cpp is not installed, or refuses the model or an adapter.
    """
    own = adapters_of(model)
    taken = {adapter.name for adapter in own}
    loaded = [*own, *(adapter for adapter in adapters if adapter.name not in taken)]
    persona = persona_of(model)
    return EmbeddedEngine(
        replace(persona, scales={adapter.name: adapter.scale for adapter in loaded}),
        model.paths,
        adapters=loaded,
        n_ctx=n_ctx or context_of(model),
        n_parallel=n_parallel,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        embeddings=embeddings,
    )


def context_of(model: Model) -> int:
    """Return the tokens of context that a model's `num_ctx` asks for, else the default.

    Raises:
        LlamuneError: it is not a positive whole number.
    """
    asked = model.parameters.get("num_ctx", N_CTX)
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise LlamuneError(f"{model}: its parameter num_ctx is {asked!r}, not a positive number")
    return asked


def adapters_named(text: str, *, base: Model) -> list[LoadedAdapter]:
    """Return the adapters that `A` or `A@0.7` stands for.

    Args:
        text: an adapter's GGUF file, or a model with adapters, and how strongly it acts.
        base: the model they are to be applied to.

    Raises:
        LlamuneError: nothing is there, it has no adapter, or it was made for another base.
    """
    name, scale = split_scale(text)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        return [LoadedAdapter(name=name, path=path, scale=scale)]
    model = resolve(name)
    if not model.adapters:
        raise LlamuneError(
            f"{name}: this model has no adapter",
            hint="name an adapter's GGUF file, or a model that `llamune tune` published",
        )
    if base.digest and model.digest and base.digest != model.digest:
        raise LlamuneError(
            f"{name}: its adapter was made for another base ({model.digest[:19]}…) than {base}",
            hint="an adapter only fits the very file it was trained on",
        )
    many = len(model.adapters) > 1
    return [
        LoadedAdapter(
            name=f"{name}/{number}" if many else name,
            path=adapter.path,
            scale=scale * adapter.scale,
        )
        for number, adapter in enumerate(model.adapters, start=1)
    ]


def split_scale(text: str) -> tuple[str, float]:
    """Split `A@0.7` into name and strength; without `@` the strength is 1.

    Raises:
        LlamuneError: what follows the last `@` is not a number.
    """
    name, at, strength = text.rpartition("@")
    if not at:
        return text, 1.0
    try:
        return name, float(strength)
    except ValueError:
        raise LlamuneError(
            f"{text}: {strength!r} is not a strength", hint="write an adapter as NAME@0.7"
        ) from None
