"""The part of Ollama's API that changes the library: create, copy, delete, blobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Collection
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from starlette.responses import JSONResponse, Response, StreamingResponse

from llamune.adapter import DIGEST_KEY
from llamune.errors import LlamuneError
from llamune.files import new_file
from llamune.gguf import ModelFile
from llamune.serve.errors import OLLAMA_RESPONSES, RequestError
from llamune.serve.ollama_models import CopyRequest, CreateRequest, NamedRequest
from llamune.serve.openai_api import service_of
from llamune.serve.pool import Pool
from llamune.serve.streams import in_thread
from llamune.store import (
    Layer,
    ModelName,
    NewLayer,
    Store,
    StoreError,
    UnknownModelError,
    copy_model,
    media_types,
    publish,
    remove_model,
)

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["Ollama"], responses=OLLAMA_RESPONSES)

Digest = Annotated[str, PathParameter(pattern=r"^sha256:[0-9a-f]{64}$")]
ADAPTER = "adapter"


@router.head("/blobs/{digest}")
async def has_blob(request: Request, digest: Digest) -> Response:
    """Say whether a blob is there."""
    store = service_of(request).pool.store
    found = await in_thread(lambda: store.has(digest))
    return Response(status_code=200 if found else 404)


@router.post("/blobs/{digest}")
async def send_blob(request: Request, digest: Digest) -> Response:
    """Take a blob in, if its bytes have the digest that it is sent under."""
    store = service_of(request).pool.store
    if await in_thread(lambda: store.has(digest)):
        return Response(status_code=200)
    store.blobs.mkdir(parents=True, exist_ok=True)
    hashed = hashlib.sha256()
    with new_file(store.blob_path(digest), replace=True) as out:
        async for chunk in request.stream():
            hashed.update(chunk)
            await to_thread.run_sync(out.write, chunk)
        if f"sha256:{hashed.hexdigest()}" != digest:
            raise RequestError(400, "the bytes do not have this digest")
    return Response(status_code=201)


@router.post("/create")
async def create(request: Request, body: CreateRequest) -> Response:
    """Make a model of blobs that were sent, or of a model and adapters."""
    pool = service_of(request).pool
    name = destination(body.required())
    if body.quantize:
        raise RequestError(400, "quantize is not done here: use `llamune quantize` first")
    await in_thread(lambda: make(pool, name, body))
    if not body.stream:
        return JSONResponse({"status": "success"})

    async def lines() -> AsyncIterator[str]:
        for status in ("writing manifest", "success"):
            yield json.dumps({"status": status}) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def make(pool: Pool, name: ModelName, body: CreateRequest) -> None:
    """Publish what a request describes.

    Raises:
        RequestError: a blob is missing or is no GGUF file, or there is nothing to make a model of.
    """
    store = pool.store
    base = pool.find(body.from_) if body.from_ else None
    layers = [] if base is None or base.manifest is None else list(base.manifest.layers)
    for digest in [*body.files.values(), *body.adapters.values()]:
        layers.append(gguf_layer(store, digest))
    weights = {layer.digest for layer in layers if layer.media_type == media_types.MODEL}
    if not weights:
        raise RequestError(400, "neither from nor files give the model's weights", param="files")
    for layer in layers:
        if layer.media_type == media_types.ADAPTER:
            check_base(store, layer.digest, weights)
    replaced, added = small_layers(body)
    kept = [layer for layer in layers if layer.media_type not in replaced]
    config = dict(base.config) if base is not None else {"model_format": "gguf"}
    try:
        publish(name, [*kept, *added], config=config, replace=True, store=store)
    except StoreError as error:
        raise RequestError(400, "the model cannot be written") from error


def gguf_layer(store: Store, digest: str) -> Layer:
    """Return the layer of a blob, by what its header says it is.

    Raises:
        RequestError: it was not sent, or is no GGUF file.
    """
    path = store.blob_path(digest)
    if not store.has(digest):
        raise RequestError(400, f"blob {digest} was not sent", param="files")
    try:
        with ModelFile.open(path) as file:
            kind = file.metadata.text("general.type", default="model")
    except LlamuneError as error:
        raise RequestError(400, f"blob {digest} is not a GGUF file", param="files") from error
    media_type = media_types.ADAPTER if kind == ADAPTER else media_types.MODEL
    return Layer(media_type, digest, path.stat().st_size)


def check_base(store: Store, digest: str, weights: Collection[str]) -> None:
    """Refuse an adapter that says it was trained on other weights.

    Args:
        store: where the adapter's blob lies.
        digest: its digest.
        weights: digests of the files it is to be put on.

    Raises:
        RequestError: 400, it was trained on another base.
    """
    with ModelFile.open(store.blob_path(digest)) as file:
        trained_on = file.metadata.text(DIGEST_KEY, default="")
    if trained_on and trained_on not in weights:
        raise RequestError(
            400,
            f"adapter {digest} was trained on another base ({trained_on})",
            param="adapters",
        )


def small_layers(body: CreateRequest) -> tuple[set[str], list[NewLayer]]:
    """Return which kinds of layers a request replaces, and the new ones."""
    licenses = [body.license] if isinstance(body.license, str) else body.license or []
    texts = {
        media_types.TEMPLATE: [body.template] if body.template else [],
        media_types.SYSTEM: [body.system] if body.system else [],
        media_types.LICENSE: licenses,
        media_types.PARAMS: [json.dumps(body.parameters)] if body.parameters else [],
        media_types.MESSAGES: [json.dumps(body.messages)] if body.messages else [],
    }
    added = [NewLayer(kind, text.encode()) for kind, found in texts.items() for text in found]
    return {layer.media_type for layer in added}, added


@router.post("/copy")
async def copy(request: Request, body: CopyRequest) -> Response:
    """Give a model a second name."""
    pool = service_of(request).pool
    target = destination(body.destination)
    source = await in_thread(lambda: pool.find(body.source))
    await in_thread(lambda: copy_model(source, target, replace=True))
    return Response(status_code=200)


@router.delete("/delete")
async def delete(request: Request, body: NamedRequest) -> Response:
    """Remove a model; blobs that others share stay."""
    pool = service_of(request).pool
    name = body.required()
    model = await in_thread(lambda: pool.find(name))
    await pool.unload(model)
    try:
        await in_thread(lambda: remove_model(pool.store, ModelName.parse(name)))
    except UnknownModelError as error:
        raise RequestError(404, f"model '{name}' not found") from error
    return Response(status_code=200)


def destination(name: str) -> ModelName:
    """Return the name under which something is to be written.

    Raises:
        RequestError: 400, it is not a model name.
    """
    parsed = ModelName.maybe(name)
    if parsed is None:
        raise RequestError(400, f"{name!r} is not a model name", param="model")
    return parsed
