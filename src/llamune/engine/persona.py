"""What a published model adds to the weights that it shares with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llamune.engine.options import Messages
from llamune.engine.prompts import Prompts, prompts_of
from llamune.engine.server import LoadedAdapter
from llamune.gguf import ModelFile
from llamune.store import Model

__all__ = ["Persona", "adapters_of", "persona_of"]

TEMPLATE_KEYS = ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")


@dataclass(frozen=True, kw_only=True)
class Persona:
    """What a published model adds to the weights that it shares with others.

    Attributes:
        model: the published model.
        scales: adapter name → strength; adapters that are not named are off.
    """

    model: Model
    scales: Mapping[str, float]

    @property
    def name(self) -> str:
        """What the person called the model."""
        return str(self.model)

    @property
    def opening(self) -> Messages:
        """Messages that every conversation begins with; a request's own system prompt wins."""
        system = self.model.system
        first = [{"role": "system", "content": system}] if system else []
        return (*first, *self.model.messages)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Generation options that apply where a request leaves them open."""
        return self.model.parameters

    @cached_property
    def prompts(self) -> Prompts:
        """What writes this model's prompts.

        Raises:
            TemplateError: its template is missing or broken.
            UnsupportedError: the runtime renders this model by code of its own.
        """
        return prompts_of(self.model)

    @cached_property
    def is_rendered_by_llama_cpp(self) -> bool:
        """Whether the prompts are those of the file's own template, which llama.cpp renders.

        Only a store's layers lead away from that.

        Raises:
            TemplateError: the layer's template is broken.
            UnsupportedError: the runtime renders this model by code of its own.
        """
        return not self.model.is_layered or self.prompts.is_of_the_file

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template writes the tools of a request into the prompt."""
        if not self.is_rendered_by_llama_cpp:
            return self.prompts.takes_tools
        with ModelFile.open(self.model.paths) as file:
            return any("tools" in file.metadata.text(key, default="") for key in TEMPLATE_KEYS)


def persona_of(model: Model) -> Persona:
    """Return how a model answers, with its own adapters."""
    return Persona(
        model=model, scales={adapter.name: adapter.scale for adapter in adapters_of(model)}
    )


def adapters_of(model: Model) -> list[LoadedAdapter]:
    """Return a model's own adapters, named by digest or path."""
    return [
        LoadedAdapter(
            name=adapter.digest or str(adapter.path), path=adapter.path, scale=adapter.scale
        )
        for adapter in model.adapters
    ]
