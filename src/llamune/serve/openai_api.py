"""OpenAI's API: models, chat and text completions, embeddings.

Source of the shapes: OpenAI's published OpenAPI description, as its Python client reads them.
"""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llamune.engine import Answer, Continuation, TokenLogProbability, collect
from llamune.serve.echo import echoed
from llamune.serve.errors import OPENAI_RESPONSES, error_body
from llamune.serve.openai_models import ChatRequest, CompletionRequest, EmbeddingsRequest
from llamune.serve.service import Job, PieceStream, Service
from llamune.serve.streams import in_thread, until_client_leaves

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=OPENAI_RESPONSES)

OWNER = "library"


def service_of(request: Request) -> Service:
    """Return what the application serves from."""
    service: Service = request.app.state.service
    return service


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """List every model and adapter of the library."""
    service = service_of(request)
    names = await in_thread(service.pool.store.names)
    return {"object": "list", "data": [model_entry(str(name)) for name in names]}


@router.get("/models/{name:path}")
async def show_model(request: Request, name: str) -> dict[str, Any]:
    """Describe one model."""
    service = service_of(request)
    model = await in_thread(lambda: service.pool.find(name))
    return model_entry(str(model))


def model_entry(name: str) -> dict[str, Any]:
    """Return what the API says of a model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


@router.post("/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    asked = body.asked()
    job = await service_of(request).open(request, body.model)
    try:
        await job.start(asked)
        if body.stream:
            return stream(job, chat_chunks(job, wants_usage=body.wants_usage))
        answer = await until_client_leaves(request, whole(job))
    except BaseException:
        await job.close()
        raise
    await job.close()
    return JSONResponse(chat_answer(job, answer, with_log_probabilities=body.logprobs))


@router.post("/completions")
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Continue a text; with `echo`, give the log-probabilities of its own tokens too."""
    body.refuse_unsupported()
    asked = [body.asked(prompt) for prompt in body.prompts()]
    if body.stream:
        job = await service_of(request).open(request, body.model)
        try:
            await job.start(asked[0])
        except BaseException:
            await job.close()
            raise
        return stream(job, text_chunks(job, body))
    choices: list[dict[str, Any]] = []
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    for index, one in enumerate(asked):
        job = await service_of(request).open(request, body.model)
        try:
            choice = await until_client_leaves(request, complete_one(job, body, one))
        finally:
            await job.close()
        choices.append({"index": index, **choice})
        for name, value in usage_of(job).items():
            usage[name] += value
    return JSONResponse(envelope(job, "text_completion", choices) | {"usage": usage})


async def complete_one(job: Job, body: CompletionRequest, asked: Continuation) -> dict[str, Any]:
    """Return the choice that answers one prompt."""
    before = None
    if body.echo:
        before = await echoed(job, asked.prompt, n_alternatives=body.n_log_probabilities)
    if body.echo and body.max_tokens == 0:
        answer = Answer(text="", finish_reason="length")
    else:
        await job.start(asked)
        answer = await whole(job)
    tokens = [*(before.tokens if before else ()), *answer.log_probabilities]
    return {
        "text": (before.text if before else "") + answer.text,
        "finish_reason": answer.finish_reason,
        "logprobs": None if body.n_log_probabilities is None else text_log_probabilities(tokens),
    }


@router.post("/embeddings")
async def embed(request: Request, body: EmbeddingsRequest) -> dict[str, Any]:
    """Return one vector a text."""
    texts = body.texts()
    job = await service_of(request).open(request, body.model, embeddings=True)
    try:
        vectors = await job.embed(texts)
    finally:
        await job.close()
    data = [
        {"object": "embedding", "index": index, "embedding": encoded(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = usage_of(job)
    del usage["completion_tokens"]
    return {"object": "list", "data": data, "model": str(job.lease.name), "usage": usage}


def encoded(vector: list[float], form: str) -> list[float] | str:
    """Return a vector as numbers, or as base64 of little-endian float32."""
    if form == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def whole(job: Job) -> Answer:
    """Wait for all pieces and put them together."""
    return collect([piece async for piece in job.pieces()])


def envelope(job: Job, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what every answer carries around its choices."""
    return {
        "id": f"cmpl-{job.usage.request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": str(job.lease.name),
        "choices": choices,
    }


def usage_of(job: Job) -> dict[str, int]:
    """Return the counts of a request."""
    usage = job.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def chat_answer(job: Job, answer: Answer, *, with_log_probabilities: bool) -> dict[str, Any]:
    """Return a whole chat answer."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.tool_calls:
        message |= {"content": answer.text or None, "tool_calls": joined_calls(answer.tool_calls)}
    tokens = answer.log_probabilities
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": answer.finish_reason,
        "logprobs": {"content": chat_tokens(tokens)} if with_log_probabilities else None,
    }
    return envelope(job, "chat.completion", [choice]) | {"usage": usage_of(job)}


def joined_calls(deltas: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Return whole tool calls from their pieces: each names its call by `index`."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        function = delta.get("function", {})
        call = calls.setdefault(
            delta.get("index", 0),
            {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
        )
        call["id"] = call["id"] or delta.get("id", "")
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
    return [calls[index] for index in sorted(calls)]


def chat_tokens(tokens: tuple[TokenLogProbability, ...]) -> list[dict[str, Any]]:
    """Return log-probabilities in the form of a chat answer."""
    return [
        token_entry(token.token, token.log_probability)
        | {"top_logprobs": [token_entry(*other) for other in token.alternatives]}
        for token in tokens
    ]


def token_entry(token: str, log_probability: float) -> dict[str, Any]:
    """Return one token in the form of a chat answer."""
    return {"token": token, "logprob": log_probability, "bytes": list(token.encode())}


def text_log_probabilities(tokens: list[TokenLogProbability]) -> dict[str, Any]:
    """Return log-probabilities in the form of a text completion.

    The first token of a text has no probability: nothing stands before it.
    """
    offsets, position = [], 0
    for token in tokens:
        offsets.append(position)
        position += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [number_or_none(token.log_probability) for token in tokens],
        "top_logprobs": [dict(token.alternatives) or None for token in tokens],
        "text_offset": offsets,
    }


def number_or_none(value: float) -> float | None:
    """Return None for NaN, which JSON cannot say."""
    return None if value != value else value  # noqa: PLR0124  only NaN differs from itself


def stream(job: Job, chunks: AsyncIterator[dict[str, Any]]) -> PieceStream:
    """Send chunks as server-sent events."""

    async def lines() -> AsyncIterator[str]:
        async for chunk in chunks:
            yield event(chunk)
        yield "data: [DONE]\n\n"

    return PieceStream(
        job,
        lines(),
        say_error=lambda error: event(error_body(router.prefix, error)),
        media_type="text/event-stream",
    )


def event(value: dict[str, Any]) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def chat_chunks(job: Job, *, wants_usage: bool) -> AsyncIterator[dict[str, Any]]:
    """Give a chat answer in pieces."""
    kind = "chat.completion.chunk"
    start = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    yield envelope(job, kind, [start])
    async for piece in job.pieces():
        delta: dict[str, Any] = {}
        if piece.text:
            delta["content"] = piece.text
        if piece.thinking:
            delta["reasoning_content"] = piece.thinking
        if piece.tool_calls:
            delta["tool_calls"] = list(piece.tool_calls)
        choice: dict[str, Any] = {
            "index": 0,
            "delta": delta,
            "finish_reason": piece.finish_reason,
        }
        if piece.log_probabilities:
            choice["logprobs"] = {"content": chat_tokens(piece.log_probabilities)}
        yield envelope(job, kind, [choice])
    if wants_usage:
        yield envelope(job, kind, []) | {"usage": usage_of(job)}


async def text_chunks(job: Job, body: CompletionRequest) -> AsyncIterator[dict[str, Any]]:
    """Give a text completion in pieces."""
    with_log_probabilities = body.n_log_probabilities is not None
    async for piece in job.pieces():
        tokens = list(piece.log_probabilities)
        choice = {
            "index": 0,
            "text": piece.text,
            "finish_reason": piece.finish_reason,
            "logprobs": text_log_probabilities(tokens) if with_log_probabilities else None,
        }
        yield envelope(job, "text_completion", [choice])
    if body.wants_usage:
        yield envelope(job, "text_completion", []) | {"usage": usage_of(job)}
