"""What a client did wrong, as a status code and in the shape of the API it speaks."""

from __future__ import annotations

from typing import Any

from llamune.errors import LlamuneError

__all__ = ["RequestError", "error_body"]

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
