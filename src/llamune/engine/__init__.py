"""Inference: llama.cpp in this process, and whole next-token distributions from it.

`open_engine` gives an engine that answers; `prompt_logits` gives the distribution after every
token of a text, which is what a proof compares.
"""

from llamune.engine.base import Engine, Receive, collect
from llamune.engine.embedded import EmbeddedEngine
from llamune.engine.errors import EngineError, NativeMismatchError
from llamune.engine.likelihood import token_log_probabilities
from llamune.engine.logits import AdapterFile, NativeModel, prompt_logits
from llamune.engine.opening import adapters_named, open_engine
from llamune.engine.options import (
    Answer,
    Asked,
    Continuation,
    Conversation,
    Embeddings,
    GenerateOptions,
    Piece,
    TokenLogProbability,
)
from llamune.engine.persona import Persona, adapters_of, persona_of
from llamune.engine.remote import OllamaEngine, OpenAiEngine, open_remote
from llamune.engine.server import LoadedAdapter

__all__ = [
    "AdapterFile",
    "Answer",
    "Asked",
    "Continuation",
    "Conversation",
    "EmbeddedEngine",
    "Embeddings",
    "Engine",
    "EngineError",
    "GenerateOptions",
    "LoadedAdapter",
    "NativeMismatchError",
    "NativeModel",
    "OllamaEngine",
    "OpenAiEngine",
    "Persona",
    "Piece",
    "Receive",
    "TokenLogProbability",
    "adapters_named",
    "adapters_of",
    "collect",
    "open_engine",
    "open_remote",
    "persona_of",
    "prompt_logits",
    "token_log_probabilities",
]
