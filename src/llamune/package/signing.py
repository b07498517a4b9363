"""Ed25519 signatures over the checksums, through the `cryptography` package if it is there."""

from __future__ import annotations

import base64
import binascii
import importlib
from pathlib import Path
from typing import Any

from llamune.package.contents import PackageError

__all__ = ["sign", "verified"]


PRIMITIVES = "cryptography.hazmat.primitives"


def module(name: str) -> Any:
    """Return a module of the package that signs.

    Raises:
        PackageError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PackageError(
            "signing needs the package `cryptography`", hint="pip install cryptography"
        ) from error


def sign(data: bytes, key_file: Path) -> str:
    """Return a signature as two lines of base64: public key, signature.

    Raises:
        PackageError: the file holds no Ed25519 private key in PEM without a password.
    """
    ed25519 = module(f"{PRIMITIVES}.asymmetric.ed25519")
    serialization = module(f"{PRIMITIVES}.serialization")
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise PackageError(f"{key_file}: no private key that can be read: {error}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise PackageError(
            f"{key_file}: not an Ed25519 key", hint="openssl genpkey -algorithm ed25519"
        )
    public = key.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    return f"{encoded(public)}\n{encoded(key.sign(data))}\n"


def verified(data: bytes, text: str) -> str | None:
    """Return the public key (base64) that signed `data`, or None when the signature is wrong.

    Raises:
        PackageError: the package `cryptography` is not installed.
    """
    ed25519 = module(f"{PRIMITIVES}.asymmetric.ed25519")
    wrong = module("cryptography.exceptions").InvalidSignature
    try:
        public, signature = (base64.b64decode(line, validate=True) for line in text.split())
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (ValueError, binascii.Error, wrong):
        return None
    return encoded(public)


def encoded(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode()
