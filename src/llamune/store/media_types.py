"""What the blobs of a model are called in its manifest."""

from __future__ import annotations

__all__ = [
    "ADAPTER",
    "CONFIG",
    "DRAFT",
    "LICENSE",
    "MANIFEST",
    "MESSAGES",
    "MODEL",
    "OCI_EMPTY",
    "OCI_MANIFEST",
    "PACKAGE",
    "PACKAGE_FILE",
    "PACKAGE_GGUF",
    "PARAMS",
    "PROJECTOR",
    "PROMPT",
    "SYSTEM",
    "TEMPLATE",
    "TENSOR",
]

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
PACKAGE = "application/vnd.llamune.package.v1"
PACKAGE_FILE = "application/vnd.llamune.package.file.v1"
PACKAGE_GGUF = "application/vnd.llamune.package.gguf.v1"
CONFIG = "application/vnd.docker.container.image.v1+json"
IMAGE = "application/vnd.ollama.image."
MODEL = f"{IMAGE}model"
ADAPTER = f"{IMAGE}adapter"
PROJECTOR = f"{IMAGE}projector"
DRAFT = f"{IMAGE}draft"
TEMPLATE = f"{IMAGE}template"
PROMPT = f"{IMAGE}prompt"  # what templates were called at first
TENSOR = f"{IMAGE}tensor"
SYSTEM = f"{IMAGE}system"
PARAMS = f"{IMAGE}params"
MESSAGES = f"{IMAGE}messages"
LICENSE = f"{IMAGE}license"
