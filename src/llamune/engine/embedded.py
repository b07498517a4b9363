"""llamune's view of a model in the embedded llama.cpp."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from llamune.engine.base import Engine, Receive
from llamune.engine.calls import CallReader, ForcedCall, forced_schema, refuse_unusable_choice
from llamune.engine.errors import EngineError
from llamune.engine.options import (
    Asked,
    Continuation,
    Conversation,
    Embeddings,
    GenerateOptions,
    Messages,
    Piece,
    Scales,
    with_defaults,
)
from llamune.engine.persona import Persona, persona_of
from llamune.engine.pieces import PieceReader, chat_request, completion_request
from llamune.engine.pulling import pulled
from llamune.engine.server import LlamaServer, LoadedAdapter
from llamune.engine.threads import default_threads
from llamune.store import Model

__all__ = ["EmbeddedEngine"]


class EmbeddedEngine(Engine):
    """One base model in memory with any number of adapters, answering several requests at once.

    Methods may be called from several threads; `n_parallel` requests are worked on together.

    Args:
        persona: how the model answers where a request does not say.
        paths: the GGUF file, or its shards in order.
        adapters: adapters to load beside it.
        n_ctx: tokens of context a request may use.
        n_parallel: requests that are worked on at the same time.
        n_threads: CPU threads; default the idle cores.
        n_gpu_layers: layers to put on a GPU; -1 = as many as there are.
        embeddings: open the model for `embed` instead of for answers.

    Raises:
        EngineError: llama.cpp is not installed, or refuses the model or an adapter.
    """

    def __init__(
        self,
        persona: Persona,
        paths: Path | Sequence[Path],
        *,
        adapters: Sequence[LoadedAdapter] = (),
        n_ctx: int,
        n_parallel: int = 1,
        n_threads: int | None = None,
        n_gpu_layers: int = -1,
        embeddings: bool = False,
    ) -> None:
        self.persona = persona
        self.adapters = tuple(adapter.name for adapter in adapters)
        self.n_ctx = n_ctx
        self._is_view = False
        self._server = LlamaServer(
            [paths] if isinstance(paths, Path) else paths,
            adapters=adapters,
            n_ctx=n_ctx,
            n_parallel=n_parallel,
            n_threads=n_threads or default_threads(),
            n_gpu_layers=n_gpu_layers,
            embeddings=embeddings,
        )

    @property
    def name(self) -> str:  # noqa: D102  see Engine
        return self.persona.name

    @property
    def address(self) -> str:
        """URL of the server's own port; it answers only to this process's key."""
        return self._server.address

    def as_model(self, model: Model) -> Self:
        """Return a view on the same loaded weights that answers as another model.

        Closing the view does nothing; it ends with this engine.

        Args:
            model: shares this engine's base; its adapters are loaded here, named by digest.

        Raises:
            EngineError: one of its adapters is not loaded.
        """
        view = copy.copy(self)
        view.persona = persona_of(model)
        view._is_view = True
        view._lora(view.persona.scales)
        return view

    def stream(self, asked: Asked) -> Iterator[Piece]:  # noqa: D102  see Engine
        return pulled(lambda receive: self.push(asked, receive))

    def push(self, asked: Asked, receive: Receive) -> None:
        """Answer in the calling thread and hand over each piece as it comes.

        Args:
            asked: the request.
            receive: takes a piece; true ends the work.

        Raises:
            EngineError: the engine refuses the request.
            TextError: the model's template refuses the conversation.
        """
        if isinstance(asked, Continuation):
            self._complete(asked.prompt, asked.options, asked.scales, receive)
            return
        refuse_unusable_choice(asked.tools, asked.tool_choice)
        if asked.tools and not self.persona.takes_tools:
            raise EngineError(f"model '{self.name}' does not support tools")
        if asked.tools and (schema := forced_schema(asked.tools, asked.tool_choice)) is not None:
            options = replace(asked.options, json_schema=schema)
            self._write(replace(asked, options=options), ForcedCall(), receive)
        elif self.persona.is_rendered_by_llama_cpp:
            messages = begin(self.persona.opening, asked.messages)
            full = replace(asked, messages=messages, options=self._filled(asked.options))
            self._run("handle_chat_completions", chat_request(full), asked.scales, receive)
        elif asked.tools and asked.tool_choice != "none":
            self._write(asked, self.persona.prompts.call_reader(asked.tools), receive)
        else:
            self._write(replace(asked, tools=()), None, receive)

    def embed(self, texts: Sequence[str]) -> Embeddings:  # noqa: D102  see Engine
        return self._server.embed(texts)

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return llama.cpp's own token ids of a text."""
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return [int(token) for token in self._server.ask("POST", "/tokenize", body)["tokens"]]

    def render(self, messages: Messages) -> str:
        """Return the prompt that llama.cpp's own template engine makes of a conversation."""
        conversation = begin(self.persona.opening, messages)
        answer = self._server.ask("POST", "/apply-template", {"messages": conversation})
        return str(answer["prompt"])

    def close(self) -> None:  # noqa: D102  see Engine
        if not self._is_view:
            self._server.close()

    def _write(self, asked: Conversation, calls: CallReader | None, receive: Receive) -> None:
        """Answer to a prompt of our own writing, its calls found by `calls`."""
        prompt = self.persona.prompts.ids(asked.messages, asked.tools)  # it puts the opening there

        def without_calls(piece: Piece) -> bool:
            shown = piece if calls is None else calls.read(piece)
            return shown is not None and receive(shown)

        self._complete(prompt, asked.options, asked.scales, without_calls)

    def _complete(
        self,
        prompt: str | Sequence[int],
        options: GenerateOptions,
        scales: Scales | None,
        receive: Receive,
    ) -> None:
        request = completion_request(prompt, self._filled(options))
        self._run("handle_completions", request, scales, receive)

    def _run(
        self, method: str, request: dict[str, Any], scales: Scales | None, receive: Receive
    ) -> None:
        lora = self._lora(self.persona.scales if scales is None else scales)
        if lora:
            request["lora"] = lora
        reader = PieceReader()

        def take(chunk: Mapping[str, Any]) -> bool:
            piece = reader.read(chunk)
            return piece is not None and receive(piece)

        self._server.run(method, request, take)
        if (last := reader.rest()) is not None:
            receive(last)

    def _filled(self, options: GenerateOptions) -> GenerateOptions:
        return with_defaults(options, self.persona.parameters)

    def _lora(self, scales: Scales) -> list[dict[str, float]]:
        if unknown := set(scales) - set(self.adapters):
            raise EngineError(
                f"{self.name}: no adapter named {min(unknown)!r} is loaded",
                hint=f"loaded: {', '.join(self.adapters) or 'none'}",
            )
        return [
            {"id": number, "scale": scales.get(name, 0.0)}
            for number, name in enumerate(self.adapters)
        ]


def begin(opening: Messages, messages: Messages) -> list[Mapping[str, Any]]:
    """Return a conversation with a model's own opening put before it."""
    has_system = bool(messages) and messages[0].get("role") == "system"
    before = [m for m in opening if not (has_system and m.get("role") == "system")]
    return [*before, *messages]
