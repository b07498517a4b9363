"""What is asked of an engine, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llamune.errors import LlamuneError

__all__ = [
    "Answer",
    "Asked",
    "Continuation",
    "Conversation",
    "Embeddings",
    "GenerateOptions",
    "Messages",
    "Piece",
    "Scales",
    "TokenLogProbability",
    "Tools",
    "with_defaults",
]

MAX_TOKENS = 1024

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
Scales = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """How to choose the next tokens; None leaves a value to the model, then to the engine."""

    max_tokens: int = MAX_TOKENS
    """tokens, at most"""
    temperature: float | None = None
    """0 always takes the likeliest token"""
    top_k: int | None = None
    """choose among this many tokens; 0 = all"""
    top_p: float | None = None
    """choose among the likeliest tokens that together have this probability"""
    min_p: float | None = None
    """leave out tokens below this share of the likeliest one's probability"""
    repeat_penalty: float | None = None
    """divide the logits of recent tokens by this; 1 = off"""
    repeat_last_n: int | None = None
    """how many recent tokens `repeat_penalty` looks at"""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    """the same seed gives the same answer; None draws one"""
    stop: tuple[str, ...] = ()
    """texts that end the answer; they are not part of it"""
    n_log_probabilities: int = 0
    """how many alternatives to report for each token"""
    json_schema: Mapping[str, Any] | None = None
    """the answer is JSON of this schema; {} = any JSON object"""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise LlamuneError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        for name in ("temperature", "top_k", "min_p", "n_log_probabilities"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise LlamuneError(f"{name} is {value}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A text to go on with as it stands, without a chat template."""

    prompt: str | Sequence[int]
    """text (control tokens spelled out become those tokens) or token ids"""
    options: GenerateOptions = GenerateOptions()
    scales: Scales | None = None
    """adapter name → strength for this request; None = as the engine was opened"""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation to answer through the model's own chat template."""

    messages: Messages
    """`{"role": …, "content": …}`, oldest first"""
    options: GenerateOptions = GenerateOptions()
    scales: Scales | None = None
    """adapter name → strength for this request; None = as the engine was opened"""
    tools: Tools = ()
    """functions that the model may call, in OpenAI's form"""
    tool_choice: str | None = None
    """`none`, `auto` (the default), `required`, or the name of the one function to call"""


Asked = Continuation | Conversation


@dataclass(frozen=True, kw_only=True)
class TokenLogProbability:
    """One token of an answer and how likely it was."""

    token: str
    log_probability: float
    """nats"""
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer as it comes; the last one carries the reason and the counts."""

    text: str = ""
    thinking: str = ""
    """text of a reasoning part, where the engine tells it apart"""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    log_probabilities: tuple[TokenLogProbability, ...] = ()
    finish_reason: str | None = None
    """`stop`, `length` or `tool_calls` on the last piece, None before"""
    n_prompt_tokens: int | None = None
    n_answer_tokens: int | None = None
    prompt_seconds: float | None = None
    answer_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer."""

    text: str
    thinking: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    log_probabilities: tuple[TokenLogProbability, ...] = ()
    finish_reason: str = "stop"
    n_prompt_tokens: int | None = None
    n_answer_tokens: int | None = None
    prompt_seconds: float | None = None
    answer_seconds: float | None = None
    first_piece_seconds: float | None = field(default=None, compare=False)
    """seconds from the request to the first piece of text"""

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the answer's tokens after the prompt was read."""
        if not self.answer_seconds or self.n_answer_tokens is None:
            return None
        return self.n_answer_tokens / self.answer_seconds


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Vectors of some texts."""

    vectors: list[list[float]]
    """one a text, of length 1"""
    n_tokens: int
    """tokens read in all"""


OLLAMA_NAMES = {"num_predict": "max_tokens"}


def with_defaults(options: GenerateOptions, parameters: Mapping[str, Any]) -> GenerateOptions:
    """Return `options` with what they leave open taken from a model's own parameters.

    Args:
        options: what the person asked for.
        parameters: the `params` layer of an Ollama model; keys that are not ours are left alone.
    """
    known = {entry.name: entry.default for entry in fields(GenerateOptions)}
    changes: dict[str, Any] = {}
    for key, value in parameters.items():
        name = OLLAMA_NAMES.get(key, key)
        if name not in known or getattr(options, name) != known[name]:
            continue
        if name == "stop":
            changes[name] = (value,) if isinstance(value, str) else tuple(value)
        elif name != "max_tokens" or value > 0:  # Ollama: -1 = without end, -2 = fill the context
            changes[name] = value
    return replace(options, **changes)
