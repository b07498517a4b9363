"""Small stores, made the way Ollama makes them, without our own writer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamune.gguf import Entry, write_gguf
from llamune.store import Store

OLLAMA = "application/vnd.ollama.image."


def put_blob(root: Path, data: bytes) -> str:
    """Lay a blob into a store by hand."""
    hexadecimal = hashlib.sha256(data).hexdigest()
    folder = root / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"sha256-{hexadecimal}").write_bytes(data)
    return f"sha256:{hexadecimal}"


def layer(root: Path, kind: str, data: bytes) -> dict[str, Any]:
    """Lay a blob into a store and return its entry in a manifest."""
    media_type = kind if "/" in kind else OLLAMA + kind
    return {"mediaType": media_type, "digest": put_blob(root, data), "size": len(data)}


def put_model(
    root: Path,
    relative: str = "registry.ollama.ai/library/tiny/latest",
    *,
    weights: bytes = b"GGUF of a tiny model",
    extra: tuple[tuple[str, bytes], ...] = (),
    config: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Lay a whole model into a store and return its manifest's path."""
    described = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_type": "1M",
        "file_type": "F16",
        **(config or {}),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer(
            root,
            "application/vnd.docker.container.image.v1+json",
            json.dumps(described).encode(),
        ),
        "layers": [
            layer(root, "model", weights),
            *(layer(root, kind, data) for kind, data in extra),
        ],
        **(changes or {}),
    }
    path = root / "manifests" / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest) + "\n")
    return path


def write_tiny_gguf(path: Path, says: str) -> Path:
    """Write a GGUF file without tensors that differs by what it says."""
    metadata = {"general.architecture": Entry.of("llama"), "general.name": Entry.of(says)}
    write_gguf(path, metadata=metadata, tensors=[], replace=True)
    return path


@pytest.fixture
def ollama(home: Path) -> Store:
    """Return the store that `OLLAMA_MODELS` names in tests, empty."""
    return Store(home / "ollama", "OLLAMA_MODELS")


@pytest.fixture
def without_system_stores(monkeypatch: pytest.MonkeyPatch, home: Path) -> Callable[[], None]:
    """Hide the stores of the machine that runs the test."""
    from llamune.store import places

    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(places, "SERVICE_STORE", home / "service")
    return lambda: None
