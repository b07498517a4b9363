"""Checking a package again, on any machine: every byte, every notice, every licence."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamune.files import sha256_of
from llamune.gguf import GgufError, ModelFile
from llamune.license import of_key
from llamune.package.contents import PackageError
from llamune.package.signing import signer_of, verified
from llamune.package.writing import BOM, CHECKSUMS, MANIFEST, SIGNATURE

__all__ = ["Verified", "verify_package"]

LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
MAX_TEXT_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a check found.

    Args:
        name: of the package.
        faults: what is wrong, one sentence each; empty when all is well.
        n_files: files whose bytes were checked.
        signer: public key that signed the checksums, base64, or None.
    """

    name: str
    faults: tuple[str, ...]
    n_files: int
    signer: str | None = None


def verify_package(folder: Path) -> Verified:
    """Check a package's checksums, weights, bill of materials, licences and notices.

    Raises:
        PackageError: `folder` is no package.
    """
    sums = read_small(folder, CHECKSUMS)
    manifest = read_object(folder, MANIFEST)
    stated = checksums(sums, folder)
    faults = wrong_files(folder, stated)
    faults += bad_weights(folder, manifest) + bad_bill(folder, stated)
    faults += missing_notices(folder, manifest)
    signer, unsigned = signatures(folder, sums)
    faults += unsigned
    return Verified(
        name=str(manifest.get("name", folder.name)),
        faults=tuple(faults),
        n_files=len(stated),
        signer=signer,
    )


def read_small(folder: Path, name: str) -> str:
    """Return a small text file of a package.

    Raises:
        PackageError: it is missing, too large, or no text.
    """
    path = folder / name
    if not path.is_file() or path.stat().st_size > MAX_TEXT_BYTES:
        raise PackageError(f"{folder}: no package of llamune: there is no sound {name}")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise PackageError(f"{path}: not text") from error


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object of a package; an empty one when it is damaged (its checksum tells)."""
    try:
        value = json.loads(read_small(folder, name))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def checksums(text: str, folder: Path) -> dict[str, str]:
    """Return path → SHA-256; a path that leads out of the package is refused.

    Raises:
        PackageError: a line is not a checksum.
    """
    stated: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = LINE.fullmatch(line)
        parts = Path(match[2]).parts if match else ()
        if match is None or Path(match[2]).is_absolute() or ".." in parts:
            raise PackageError(
                f"{folder / CHECKSUMS}, line {number}: not a checksum of a file here"
            )
        stated[match[2]] = match[1]
    return stated


def wrong_files(folder: Path, stated: dict[str, str]) -> list[str]:
    """Return the files that are missing, changed, or not listed."""
    faults = []
    for name, digest in stated.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            faults.append(f"{name}: missing")
        elif sha256_of(path) != digest:
            faults.append(f"{name}: changed")
    listed = {*stated, CHECKSUMS, SIGNATURE}
    found = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    extra = sorted(path.relative_to(folder).as_posix() for path in found)
    return faults + [f"{name}: not listed in {CHECKSUMS}" for name in extra if name not in listed]


def bad_weights(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return what is wrong with the weights, beyond their checksum."""
    path = folder / Path(str(manifest.get("weights", "?"))).name
    if not path.is_file():
        return [f"{path.name}: the weights that {MANIFEST} names are missing"]
    try:
        with ModelFile.open(path, mapped=False) as file:
            kind = file.metadata.text("general.type", default="model")
    except GgufError as error:
        return [f"{path.name}: {error.message}"]
    is_adapter = kind == "adapter"
    if is_adapter != (manifest.get("kind") == "adapter"):
        return [f"{path.name}: is {kind}, {MANIFEST} says {manifest.get('kind')}"]
    return []


def bad_bill(folder: Path, stated: dict[str, str]) -> list[str]:
    """Return the files whose digest in the bill of materials is another than the checksum."""
    bill = read_object(folder, BOM) if (folder / BOM).is_file() else {}
    entries = bill.get("components", [])
    hashes = {
        str(entry.get("name")): entry.get("hashes", [{}])[0].get("content")
        for entry in entries
        if isinstance(entry, dict) and entry.get("hashes")
    }
    missing = set(stated) - set(hashes) - {BOM}
    faults = [f"{BOM}: does not list {name}" for name in sorted(missing)]
    wrong = [name for name, digest in hashes.items() if stated.get(name) != digest]
    return faults + [f"{BOM}: another digest for {name}" for name in sorted(wrong)]


def signatures(folder: Path, sums: str) -> tuple[str | None, list[str]]:
    """Return who signed checksums and bill, and what is wrong with the signatures.

    Raises:
        PackageError: a package that signatures need is not installed.
    """
    bill = read_object(folder, BOM) if (folder / BOM).is_file() else {}
    has_list, has_bill = (folder / SIGNATURE).exists(), "signature" in bill
    if not has_list and not has_bill:
        return None, []
    if not has_list:
        return None, [f"{SIGNATURE}: missing, though {BOM} is signed"]
    signer = verified(sums.encode(), read_small(folder, SIGNATURE))
    if signer is None:
        return None, [f"{SIGNATURE}: the signature does not belong to {CHECKSUMS}"]
    if signer_of(bill) != signer:
        return signer, [f"{BOM}: not signed by the key that signed {CHECKSUMS}"]
    return signer, []


def missing_notices(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the licence texts and notice lines that are owed and not there."""
    path = folder / "NOTICE"
    notice = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = [str(line) for line in manifest.get("notice_lines", [])]
    faults = [f"NOTICE: lacks the line: {line}" for line in lines if line not in notice]
    for identifier in manifest.get("licences", []):
        record = of_key(str(identifier))
        asks = record and any(duty.kind == "licence-text" for duty in record.duties)
        if asks and not (folder / "LICENSES" / f"{identifier}.txt").is_file():
            faults.append(f"LICENSES/{identifier}.txt: missing")
    return faults
