"""Ed25519 signatures: over the checksums, and inside the bill of materials as CycloneDX has it.

Source: JSON Signature Format (JSF) 0.82, which `bom-1.6.schema.json` names: the signature is taken
over the document in its canonical form (RFC 8785) with everything but `signature.value`.
"""

from __future__ import annotations

import base64
import binascii
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamune.package.contents import PackageError

__all__ = ["read_key", "sign", "signed", "signer_of", "verified"]

PRIMITIVES = "cryptography.hazmat.primitives"
ALGORITHM = "Ed25519"


def module(name: str) -> Any:
    """Return a module of the packages that sign.

    Raises:
        PackageError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PackageError(
            f"signatures need the package `{name.partition('.')[0]}`",
            hint="pip install 'llamune[sign]'",
        ) from error


def read_key(path: Path) -> Any:
    """Return an Ed25519 private key.

    Raises:
        PackageError: the file holds none in PEM without a password.
    """
    ed25519 = module(f"{PRIMITIVES}.asymmetric.ed25519")
    serialization = module(f"{PRIMITIVES}.serialization")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise PackageError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise PackageError(f"{path}: no private key that can be read: {error}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise PackageError(f"{path}: not an Ed25519 key", hint="openssl genpkey -algorithm ed25519")
    return key


def sign(data: bytes, key: Any) -> str:
    """Return a signature as two lines of base64: public key, signature."""
    return f"{encoded(public_bytes(key))}\n{encoded(key.sign(data))}\n"


def verified(data: bytes, text: str) -> str | None:
    """Return the public key (base64) that signed `data`, or None when the signature is wrong.

    Raises:
        PackageError: the package `cryptography` is not installed.
    """
    try:
        public, signature = (base64.b64decode(line, validate=True) for line in text.split())
    except (ValueError, binascii.Error):
        return None
    return encoded(public) if belongs(public, signature, data) else None


def signed(document: Mapping[str, Any], key: Any) -> dict[str, Any]:
    """Return a JSON document with a JSF signature of it inside.

    Args:
        document: without a signature.
        key: from `read_key`.
    """
    core = {
        "algorithm": ALGORITHM,
        "publicKey": {"kty": "OKP", "crv": ALGORITHM, "x": url_encoded(public_bytes(key))},
    }
    data = canonical({**document, "signature": core})
    return {**document, "signature": {**core, "value": url_encoded(key.sign(data))}}


def signer_of(document: Mapping[str, Any]) -> str | None:
    """Return the public key (base64) of a document's JSF signature, or None when it is wrong.

    Raises:
        PackageError: a package that signatures need is not installed.
    """
    core = document.get("signature")
    if not isinstance(core, dict) or core.get("algorithm") != ALGORITHM:
        return None
    try:
        public = url_decoded(core["publicKey"]["x"])
        signature = url_decoded(core["value"])
        rest = {name: value for name, value in core.items() if name != "value"}
        data = canonical({**document, "signature": rest})
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return encoded(public) if belongs(public, signature, data) else None


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return a JSON document in its canonical form.

    Raises:
        ValueError: it holds numbers beyond what JSON readers agree on.
    """
    found = module("rfc8785").dumps(document)
    assert isinstance(found, bytes)  # noqa: S101  what that function is for
    return found


def belongs(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether a key made a signature over data."""
    ed25519 = module(f"{PRIMITIVES}.asymmetric.ed25519")
    wrong = module("cryptography.exceptions").InvalidSignature
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (ValueError, wrong):
        return False
    return True


def public_bytes(key: Any) -> bytes:
    """Return a private key's public half, 32 bytes."""
    serialization = module(f"{PRIMITIVES}.serialization")
    found = key.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    assert isinstance(found, bytes)  # noqa: S101  what that function is for
    return found


def encoded(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode()


def url_encoded(data: bytes) -> str:
    """Return bytes as base64url without padding, as JSON keys and signatures have them."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def url_decoded(text: str) -> bytes:
    """Return the bytes of a base64url text without padding.

    Raises:
        ValueError: it is none.
    """
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
