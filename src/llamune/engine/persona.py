"""What a published model adds to the weights that it shares with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamune.engine.base import Messages
from llamune.engine.server import LoadedAdapter
from llamune.store import Model

__all__ = ["Persona", "adapters_of", "persona_of"]

Render = Callable[[Messages], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Persona:
    """What a published model adds to the weights that it shares with others.

    Attributes:
        name: what the person called the model.
        opening: messages that every conversation begins with; its system prompt gives way to a
            request's own.
        parameters: generation options that apply where a request leaves them open.
        scales: adapter name → strength; adapters that are not named are off.
        render: turns messages into prompt ids where the model's template is not the file's own.
    """

    name: str
    opening: Messages = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    render: Render | None = None


def persona_of(model: Model) -> Persona:
    """Return how a model answers: its system prompt, messages, parameters and adapters."""
    system = [{"role": "system", "content": model.system}] if model.system else []
    # only a store's layers lead away from the file's own template, which llama.cpp renders itself
    has_layers = model.template is not None or model.renderer is not None
    return Persona(
        name=str(model),
        opening=(*system, *model.messages),
        parameters=model.parameters,
        scales={adapter.name: adapter.scale for adapter in adapters_of(model)},
        render=render_of(model) if has_layers else None,
    )


def render_of(model: Model) -> Render | None:
    """Return our own rendering where a model is served with another template than its file's.

    Raises:
        TemplateError: the template is broken.
        UnsupportedError: the runtime renders this model by code of its own.
    """
    from llamune.gguf import ModelFile
    from llamune.text import prompt_ids, template_of, tokenizer_of

    with ModelFile.open(model.paths) as file:
        tokenizer = tokenizer_of(file)
        template = template_of(model, file, tokenizer)
    if template.source == "gguf":
        return None
    return lambda messages: prompt_ids(template, tokenizer, messages, add_generation_prompt=True)


def adapters_of(model: Model) -> list[LoadedAdapter]:
    """Return a model's own adapters, named by digest or path."""
    return [
        LoadedAdapter(
            name=adapter.digest or str(adapter.path), path=adapter.path, scale=adapter.scale
        )
        for adapter in model.adapters
    ]
