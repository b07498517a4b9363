"""llamune's view of a model in the embedded llama.cpp."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from llamune.engine.base import Engine, Messages, Scales
from llamune.engine.errors import EngineError
from llamune.engine.options import Embeddings, GenerateOptions, Piece, with_defaults
from llamune.engine.persona import Persona, persona_of
from llamune.engine.pieces import chat_request, completion_request, counts, piece_of
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

    def generate(  # noqa: D102  see Engine
        self,
        prompt: str | Sequence[int],
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
    ) -> Iterator[Piece]:
        text = prompt if isinstance(prompt, str) else list(prompt)
        request = completion_request(text, self._filled(options))
        return self._stream("handle_completions", request, scales)

    def chat(  # noqa: D102  see Engine
        self,
        messages: Messages,
        options: GenerateOptions | None = None,
        *,
        scales: Scales | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] | None = None,
    ) -> Iterator[Piece]:
        if self.persona.render is not None and not tools:  # it puts the opening there itself
            return self.generate(self.persona.render(messages), options, scales=scales)
        conversation = begin(self.persona.opening, messages)
        request = chat_request(
            conversation, self._filled(options), tools=tools, tool_choice=tool_choice
        )
        return self._stream("handle_chat_completions", request, scales)

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

    def _filled(self, options: GenerateOptions | None) -> GenerateOptions:
        return with_defaults(options or GenerateOptions(), self.persona.parameters)

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

    def _stream(
        self, method: str, request: dict[str, Any], scales: Scales | None
    ) -> Iterator[Piece]:
        lora = self._lora(self.persona.scales if scales is None else scales)
        if lora:
            request["lora"] = lora
        return joined(self._server.stream(method, request))


def joined(chunks: Iterator[Any]) -> Iterator[Piece]:
    """Yield chunks as pieces; the one that ends the answer waits for the counts after it."""
    ended: Piece | None = None
    for chunk in chunks:
        piece = piece_of(chunk)
        if ended is not None:
            piece = replace(ended, **counts(piece))
        if piece.finish_reason is not None and piece.n_answer_tokens is None:
            ended = piece
            continue
        ended = None
        yield piece
    if ended is not None:
        yield ended


def begin(opening: Messages, messages: Messages) -> list[Mapping[str, Any]]:
    """Return a conversation with a model's own opening put before it."""
    has_system = bool(messages) and messages[0].get("role") == "system"
    before = [m for m in opening if not (has_system and m.get("role") == "system")]
    return [*before, *messages]
