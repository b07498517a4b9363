"""What a client did wrong, as a status code and in the shape of the API it speaks."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from llamune.errors import LlamuneError

__all__ = ["OLLAMA_RESPONSES", "OPENAI_RESPONSES", "RequestError", "error_body"]

OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class RequestError(LlamuneError):
    """A request that cannot be answered, with the status to say so.

    Args:
        status: HTTP status code.
        message: one line for the client; nothing of the server's inside.
        code: OpenAI's machine-readable code, such as `model_not_found`.
        param: the field that is wrong.
        retry_after_seconds: when to try again, for 429 and 503.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        headers = {}
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(self.retry_after_seconds)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def error_body(path: str, error: RequestError) -> dict[str, Any]:
    """Return the JSON body of an error, in the shape of the API that `path` belongs to."""
    if not path.startswith("/v1"):
        return {"error": error.message}
    kind = OPENAI_TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


class OpenAiFault(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(BaseModel):
    """An error of OpenAI's API."""

    error: OpenAiFault


class OllamaError(BaseModel):
    """An error of Ollama's API."""

    error: str


STATUSES: dict[int, str] = {
    400: "The request is malformed, or asks for what is not done here.",
    401: "An API key is needed, or this one is not valid.",
    403: "A foreign host name or web origin.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    422: "The model is there and cannot be used.",
    429: "The key has used up its minute.",
    500: "The server has a fault.",
    503: "There is not enough memory now.",
}


def documented(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return every error that a route may answer with, for the published description."""
    return {status: {"model": model, "description": text} for status, text in STATUSES.items()}


OPENAI_RESPONSES = documented(OpenAiError)
OLLAMA_RESPONSES = documented(OllamaError)
