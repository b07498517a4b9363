"""Ollama's API: generate, chat, embed, and what the clients ask about models.

Source of the shapes: Ollama's documented API, as its Python client reads them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llamune import __version__
from llamune.engine import Asked, Continuation, Conversation, Piece
from llamune.serve.describe import details, shown
from llamune.serve.errors import OLLAMA_RESPONSES, error_body
from llamune.serve.ollama_models import (
    Asking,
    ChatRequest,
    EmbedRequest,
    GenerateRequest,
    NamedRequest,
)
from llamune.serve.openai_api import chat_tokens, joined_calls, service_of, whole
from llamune.serve.pool import Loaded
from llamune.serve.service import Job, PieceStream
from llamune.serve.streams import in_thread, until_client_leaves
from llamune.serve.tool_models import plain_tools
from llamune.store import list_models

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["Ollama"], responses=OLLAMA_RESPONSES)

# adapters can be created through this API, as they could until that version of Ollama's own
API_VERSION = f"0.34.0+llamune.{__version__}"
NANOSECONDS = 1_000_000_000

Body = Callable[[Piece], dict[str, Any]]


@router.get("/version")
async def version() -> dict[str, str]:
    """Say which version of the API this is."""
    return {"version": API_VERSION}


@router.get("/tags")
async def tags(request: Request) -> dict[str, Any]:
    """List every model and adapter of the library."""
    service = service_of(request)
    listed = await in_thread(lambda: list_models([service.pool.store]))
    return {
        "models": [
            {
                "name": str(entry.name),
                "model": str(entry.name),
                "modified_at": time_text(entry.modified_seconds),
                "size": entry.size_bytes,
                "digest": entry.id or "",
                "details": details(
                    family=entry.family,
                    parameters=entry.parameters,
                    file_type=entry.file_type,
                ),
            }
            for entry in listed
            if entry.kind in ("model", "adapter")
        ]
    }


@router.post("/show")
async def show(request: Request, body: NamedRequest) -> dict[str, Any]:
    """Describe one model."""
    name = body.required()
    service = service_of(request)
    return await in_thread(lambda: shown(service.pool.find(name), verbose=body.verbose))


@router.get("/ps")
async def running(request: Request) -> dict[str, Any]:
    """List what is in memory."""
    pool = service_of(request).pool
    return {"models": [loaded_entry(loaded, pool.idle_seconds) for loaded in pool.loaded.values()]}


def loaded_entry(loaded: Loaded, idle_seconds: float) -> dict[str, Any]:
    """Return what the API says of a base in memory."""
    idle = time.monotonic() - loaded.last_used
    config = loaded.model.config
    return {
        "name": str(loaded.model),
        "model": str(loaded.model),
        "size": loaded.n_bytes,
        "size_vram": 0,
        "digest": (loaded.model.digest or "").removeprefix("sha256:"),
        "details": details(
            family=config.get("model_family"),
            parameters=config.get("model_type"),
            file_type=config.get("file_type"),
        ),
        "expires_at": time_text(time.time() + idle_seconds - idle),
        "context_length": loaded.engine.n_ctx,
    }


@router.post("/generate")
async def generate(request: Request, body: GenerateRequest) -> Response:
    """Continue or answer a prompt; an empty one loads the model, or lets go of it."""
    body.refuse_unsupported()
    if not body.prompt:
        return await load_only(request, body)

    options = body.generate_options()
    asked: Asked = (
        Continuation(prompt=body.prompt, options=options)
        if body.raw
        else Conversation(messages=body.messages(), options=options)
    )

    def part(piece: Piece) -> dict[str, Any]:
        return {"response": piece.text, **thought(piece)}

    return await answer(request, body, asked, part)


@router.post("/chat")
async def chat(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation; an empty one loads the model, or lets go of it."""
    body.refuse_unsupported()
    if not body.messages:
        return await load_only(request, body)

    asked = Conversation(
        messages=[ollama_to_openai(message) for message in body.messages],
        options=body.generate_options(),
        tools=plain_tools(body.tools),
    )

    def part(piece: Piece) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": piece.text, **thought(piece)}
        if piece.tool_calls:
            message["tool_calls"] = openai_to_ollama_calls(piece.tool_calls)
        return {"message": message}

    return await answer(request, body, asked, part)


async def answer(request: Request, body: Asking, asked: Asked, part: Body) -> Response:
    """Answer at once or line by line.

    Args:
        request: who asks.
        body: what the client sent.
        asked: the same in the engine's words.
        part: gives the fields that carry a piece of the answer.
    """
    arrived = time.monotonic()
    job = await service_of(request).open(request, body.model)
    try:
        await job.start(asked)
        if body.stream:
            return PieceStream(
                job,
                lines(job, body, part, arrived),
                say_error=lambda error: json.dumps(error_body(router.prefix, error)) + "\n",
                media_type="application/x-ndjson",
            )
        found = await until_client_leaves(request, whole(job))
    except BaseException:
        await job.close()
        raise
    await job.close()
    last = Piece(
        text=found.text,
        thinking=found.thinking,
        tool_calls=tuple(joined_calls(found.tool_calls)),
        log_probabilities=found.log_probabilities,
        finish_reason=found.finish_reason,
        n_prompt_tokens=found.n_prompt_tokens,
        n_answer_tokens=found.n_answer_tokens,
        prompt_seconds=found.prompt_seconds,
        answer_seconds=found.answer_seconds,
    )
    return JSONResponse(envelope(job, body, last) | part(last) | ending(job, last, arrived))


async def lines(job: Job, body: Asking, part: Body, arrived: float) -> AsyncIterator[str]:
    """Give an answer line by line; tool calls come whole, when the answer ends."""
    calls: list[Any] = []
    async for piece in job.pieces():
        calls.extend(piece.tool_calls)
        is_last = piece.finish_reason is not None
        whole_calls = tuple(joined_calls(tuple(calls))) if is_last else ()
        shown_piece = Piece(text=piece.text, thinking=piece.thinking, tool_calls=whole_calls)
        line = envelope(job, body, piece) | part(shown_piece)
        if is_last:
            line |= ending(job, piece, arrived)
        yield json.dumps(line, ensure_ascii=False) + "\n"


def envelope(job: Job, body: Asking, piece: Piece) -> dict[str, Any]:
    """Return what every line carries."""
    line: dict[str, Any] = {
        "model": str(job.lease.name),
        "created_at": time_text(time.time()),
        "done": False,
    }
    if body.logprobs and piece.log_probabilities:
        line["logprobs"] = chat_tokens(piece.log_probabilities)
    return line


def ending(job: Job, piece: Piece, arrived: float) -> dict[str, Any]:
    """Return the figures that end an answer; times in nanoseconds."""
    return {
        "done": True,
        "done_reason": "length" if piece.finish_reason == "length" else "stop",
        "total_duration": nanoseconds(time.monotonic() - arrived),
        "load_duration": nanoseconds(job.lease.load_seconds),
        "prompt_eval_count": piece.n_prompt_tokens,
        "prompt_eval_duration": nanoseconds(piece.prompt_seconds),
        "eval_count": piece.n_answer_tokens,
        "eval_duration": nanoseconds(piece.answer_seconds),
    }


async def load_only(request: Request, body: Asking) -> Response:
    """Bring a model into memory, or let go of it where the request says so."""
    service = service_of(request)
    if body.unloads:
        await service.pool.unload(await in_thread(lambda: service.pool.find(body.model)))
    else:
        job = await service.open(request, body.model)
        await job.close()
    return JSONResponse(
        {
            "model": body.model,
            "created_at": time_text(time.time()),
            "response": "",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "unload" if body.unloads else "load",
        }
    )


@router.post("/embed")
async def embed(request: Request, body: EmbedRequest) -> dict[str, Any]:
    """Return one vector a text."""
    arrived = time.monotonic()
    job = await service_of(request).open(request, body.model, embeddings=True)
    try:
        vectors = await job.embed(body.texts())
    finally:
        await job.close()
    return {
        "model": str(job.lease.name),
        "embeddings": [shortened(vector, body.dimensions) for vector in vectors],
        "total_duration": nanoseconds(time.monotonic() - arrived),
        "load_duration": nanoseconds(job.lease.load_seconds),
        "prompt_eval_count": job.usage.prompt_tokens,
    }


def shortened(vector: list[float], dimensions: int | None) -> list[float]:
    """Return the first numbers of a vector, at length 1 again."""
    if dimensions is None or dimensions >= len(vector):
        return vector
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return [value / length for value in kept] if length else kept


def thought(piece: Piece) -> dict[str, str]:
    """Return the reasoning part of a piece, where there is one."""
    return {"thinking": piece.thinking} if piece.thinking else {}


def ollama_to_openai(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose tool calls carry their arguments as text, as llama.cpp expects."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return message | {
        "tool_calls": [
            {
                "id": f"call_{index}",
                "type": "function",
                "function": {
                    "name": call.get("function", {}).get("name", ""),
                    "arguments": json.dumps(call.get("function", {}).get("arguments", {})),
                },
            }
            for index, call in enumerate(calls)
        ]
    }


def openai_to_ollama_calls(calls: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Return whole tool calls with their arguments as objects, as Ollama gives them."""
    return [
        {
            "function": {
                "name": call["function"]["name"],
                "arguments": parsed(call["function"]["arguments"]),
            }
        }
        for call in calls
    ]


def parsed(text: str) -> dict[str, Any]:
    """Return a call's arguments; what is not an object (the answer was cut) as empty."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def nanoseconds(seconds: float | None) -> int:
    """Return a duration as Ollama writes it."""
    return int((seconds or 0.0) * NANOSECONDS)


def time_text(seconds: float) -> str:
    """Return a time as RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
