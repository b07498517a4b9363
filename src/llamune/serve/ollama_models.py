"""Requests of Ollama's API, as far as we answer them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llamune.engine import GenerateOptions
from llamune.errors import LlamuneError
from llamune.serve.errors import RequestError
from llamune.serve.tool_models import Tool

__all__ = [
    "ChatRequest",
    "CopyRequest",
    "CreateRequest",
    "EmbedRequest",
    "GenerateRequest",
    "NamedRequest",
]

Name = Annotated[str, Field(min_length=1, max_length=400)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
ENDLESS = -1
FILL_CONTEXT = -2


class Options(BaseModel):
    """Sampling options; those that only steer another runtime (`num_gpu` …) have no effect here."""

    model_config = ConfigDict(extra="ignore")

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    num_predict: Annotated[int, Field(ge=FILL_CONTEXT)] | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None  # kept by /api/create; the server's applies
    stop: list[str] | str | None = None


class Asking(BaseModel):
    """What requests for text share."""

    model_config = ConfigDict(extra="ignore")

    model: Name
    stream: bool = True
    options: Options = Options()
    format: Literal["json", ""] | dict[str, Any] | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    def generate_options(self) -> GenerateOptions:
        """Return the request in the engine's words.

        Raises:
            RequestError: 400, an option is out of range.
        """
        given = self.options.model_dump(
            exclude={"num_predict", "num_ctx", "stop"}, exclude_none=True
        )
        if given.get("seed", 0) < 0:  # Ollama's way of asking for any seed
            del given["seed"]
        if self.options.num_predict not in (None, ENDLESS, FILL_CONTEXT):
            given["max_tokens"] = self.options.num_predict
        stop = self.options.stop
        if stop:
            given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        if self.format:
            given["json_schema"] = {} if self.format == "json" else self.format
        if self.logprobs:
            given["n_log_probabilities"] = max(1, self.top_logprobs)
        try:
            return GenerateOptions(**given)
        except LlamuneError as error:
            raise RequestError(400, error.message) from error

    @property
    def unloads(self) -> bool:
        """Whether the request asks to let go of the model."""
        return self.keep_alive in (0, "0", "0s", "0m", "0h")


class GenerateRequest(Asking):
    """`POST /api/generate`."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool = False
    images: list[str] | None = None
    context: list[int] | None = None

    def refuse_unsupported(self) -> None:
        """Refuse what would change the answer and is not done here."""
        for name in ("suffix", "template", "images", "context"):
            if getattr(self, name):
                raise RequestError(400, f"{name} is not supported", param=name)

    def messages(self) -> list[dict[str, Any]]:
        """Return the prompt as a conversation."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt}]


class ChatRequest(Asking):
    """`POST /api/chat`."""

    messages: list[dict[str, Any]] = []
    tools: list[Tool] | None = None

    def refuse_unsupported(self) -> None:
        """Refuse what would change the answer and is not done here."""
        if any(message.get("images") for message in self.messages):
            raise RequestError(400, "images are not supported", param="messages")


class EmbedRequest(BaseModel):
    """`POST /api/embed`."""

    model_config = ConfigDict(extra="ignore")

    model: Name
    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    dimensions: Annotated[int, Field(ge=1)] | None = None

    def texts(self) -> list[str]:
        """Return the texts, one or many."""
        return [self.input] if isinstance(self.input, str) else self.input


class NamedRequest(BaseModel):
    """A request about one model; older clients say `name` for `model`."""

    model_config = ConfigDict(extra="ignore")

    model: Name | None = None
    name: Name | None = None
    verbose: bool = False

    def required(self) -> str:
        """Return the model's name.

        Raises:
            RequestError: 400, it is missing.
        """
        found = self.model or self.name
        if found is None:
            raise RequestError(400, "model is required", param="model")
        return found


class CopyRequest(BaseModel):
    """`POST /api/copy`."""

    source: Name
    destination: Name


class CreateRequest(NamedRequest):
    """`POST /api/create`: from files that were sent as blobs, or from a model with adapters."""

    from_: Annotated[Name | None, Field(alias="from")] = None
    files: dict[str, Digest] = {}
    adapters: dict[str, Digest] = {}
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    quantize: str | None = None
    stream: bool = True

    @field_validator("parameters")
    @classmethod
    def usable(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Refuse parameters that no request could be answered with."""
        Options.model_validate(parameters, strict=True)
        return parameters
