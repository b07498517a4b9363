"""Requests of OpenAI's API, as far as we answer them; what we do not do is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llamune.engine import Continuation, Conversation, GenerateOptions
from llamune.errors import LlamuneError
from llamune.serve.errors import RequestError
from llamune.serve.tool_models import NamedChoice, Tool, ToolChoice, plain_tools

__all__ = ["ChatRequest", "CompletionRequest", "EmbeddingsRequest"]

MAX_LOG_PROBABILITIES = 20
DEFAULT_COMPLETION_TOKENS = 16
INT32_MAX = 2**31 - 1

Stop = Annotated[list[str], Field(max_length=16)] | str | None
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=INT32_MAX)]], Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=INT32_MAX)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(BaseModel):
    """What a stream carries beside the answer."""

    include_usage: bool = False


class JsonSchema(BaseModel):
    """A named schema for the answer."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = "answer"
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(BaseModel):
    """Which form the answer has."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    def schema_of_answer(self) -> dict[str, Any] | None:
        """Return the schema that the answer must follow, None for free text."""
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema is not None else {}


class Sampling(BaseModel):
    """What both kinds of request share."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[str, Field(min_length=1, max_length=400)]
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stop: Stop = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    best_of: int = 1
    logit_bias: dict[str, float] | None = None

    def refuse_unsupported(self) -> None:
        """Refuse what would change the answer and is not done here.

        Raises:
            RequestError: 400, naming the field.
        """
        for name, value, neutral in (("n", self.n, 1), ("best_of", self.best_of, 1)):
            if value != neutral:
                raise RequestError(400, f"{name} must be {neutral} here", param=name)
        if self.logit_bias:
            raise RequestError(400, "logit_bias is not supported", param="logit_bias")

    def options(
        self,
        *,
        max_tokens: int | None,
        n_log_probabilities: int,
        json_schema: dict[str, Any] | None = None,
    ) -> GenerateOptions:
        """Return the request's sampling in the engine's words."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        limit = {} if max_tokens is None else {"max_tokens": max_tokens}
        try:
            return GenerateOptions(
                **limit,
                temperature=self.temperature,
                top_p=self.top_p,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
                seed=self.seed,
                stop=tuple(stops),
                n_log_probabilities=n_log_probabilities,
                json_schema=json_schema,
            )
        except LlamuneError as error:
            raise RequestError(400, error.message) from error

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOG_PROBABILITIES)] = 0
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None

    def asked(self) -> Conversation:
        """Return the request in the engine's words.

        Raises:
            RequestError: 400, what cannot be done here, naming the field.
        """
        self.refuse_unsupported()
        form = self.response_format or ResponseFormat()
        choice = self.tool_choice
        options = self.options(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            n_log_probabilities=max(1, self.top_logprobs) if self.logprobs else 0,
            json_schema=form.schema_of_answer(),
        )
        return Conversation(
            messages=self.messages,
            options=options,
            tools=plain_tools(self.tools),
            tool_choice=choice.function.name if isinstance(choice, NamedChoice) else choice,
        )


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=INT32_MAX)] = DEFAULT_COMPLETION_TOKENS
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOG_PROBABILITIES)] | bool | None = None
    echo: bool = False
    suffix: str | None = None

    def refuse_unsupported(self) -> None:
        """Refuse what would change the answer and is not done here."""
        super().refuse_unsupported()
        if self.suffix:
            raise RequestError(400, "suffix is not supported", param="suffix")
        if self.stream and (self.echo or len(self.prompts()) > 1):
            raise RequestError(400, "a stream takes one prompt and no echo", param="stream")

    @property
    def n_log_probabilities(self) -> int | None:
        """How many alternatives are wanted; None without log-probabilities."""
        if self.logprobs is None or self.logprobs is False:
            return None
        return int(self.logprobs)

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, one or many, as texts or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [item for item in self.prompt if isinstance(item, int)]
        return [tokens] if tokens else [item for item in self.prompt if not isinstance(item, int)]

    def asked(self, prompt: str | list[int]) -> Continuation:
        """Return the request for one of its prompts in the engine's words."""
        wanted = self.n_log_probabilities
        options = self.options(
            max_tokens=max(1, self.max_tokens),
            n_log_probabilities=0 if wanted is None else max(1, wanted),
        )
        return Continuation(prompt=prompt, options=options)


class EmbeddingsRequest(BaseModel):
    """`POST /v1/embeddings`."""

    model: Annotated[str, Field(min_length=1, max_length=400)]
    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"

    def texts(self) -> list[str]:
        """Return the texts, one or many."""
        return [self.input] if isinstance(self.input, str) else self.input
