"""Writing a package: a folder that appears whole or not at all, with a checksum of every file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from llamune.files import new_folder, sha256_of
from llamune.package import card
from llamune.package.bom import bill_of_materials
from llamune.package.contents import Contents, check
from llamune.package.signing import read_key, sign, signed

__all__ = ["BOM", "CHECKSUMS", "MANIFEST", "SIGNATURE", "write_package"]

MANIFEST = "package.json"
CHECKSUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
BOM = "bom.cdx.json"
FORMAT = 1


def write_package(
    contents: Contents, folder: Path, *, language: str | None = None, key: Path | None = None
) -> None:
    """Write a package; `folder` must not exist.

    Args:
        contents: what it is made of.
        folder: the new folder.
        language: of the model card, `en` or `ja`; default the locale's.
        key: PEM file with an Ed25519 private key to sign checksums and bill with, or None.

    Raises:
        AnswerNo: a licence forbids it, or its answer is not confirmed.
        PackageError: the name breaks a rule, a licence text is missing, or the key cannot be used.
        LlamuneError: `folder` exists.
    """
    check(contents)
    signing_key = None if key is None else read_key(key)
    with new_folder(folder) as scratch:
        write_weights(contents, scratch)
        write_texts(contents, scratch, language=language)
        write_facts(contents, scratch)
        bill = bill_of_materials(contents, digests_in(scratch))
        if signing_key is not None:
            bill = signed(bill, signing_key)
        write(scratch / BOM, json.dumps(bill, indent=2, ensure_ascii=False) + "\n")
        sums = "".join(f"{digest}  {path}\n" for path, digest in digests_in(scratch).items())
        write(scratch / CHECKSUMS, sums)
        if signing_key is not None:
            write(scratch / SIGNATURE, sign(sums.encode(), signing_key))


def write(path: Path, text: str) -> None:
    """Write a text file; lines end alike on every system, or checksums would differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def write_weights(contents: Contents, folder: Path) -> None:
    """Copy the weights."""
    shutil.copyfile(contents.gguf, folder / contents.gguf_name)
    if contents.kind == "adapter" and contents.peft is not None:
        (folder / "adapter").mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(contents.peft / name, folder / "adapter" / name)


def write_texts(contents: Contents, folder: Path, *, language: str | None) -> None:
    """Write the card, the licences, the notices and how to run it."""
    write(folder / "README.md", card.model_card(contents, language=language))
    write(folder / "NOTICE", card.notice(contents))
    write(folder / "CHANGES.md", card.changes(contents))
    write(folder / "Modelfile", card.modelfile(contents))
    write(folder / "examples" / "ask.py", card.example_script(contents))
    for identifier, text in contents.texts.items():
        write(folder / "LICENSES" / f"{identifier}.txt", text)
    if (restrictions := card.use_restrictions(contents)) is not None:
        write(folder / "USE_RESTRICTIONS.md", restrictions)


def write_facts(contents: Contents, folder: Path) -> None:
    """Write recipe, scores and proof, and what `verify` needs to know."""
    if contents.recipe is not None:
        write(folder / "recipe.yaml", contents.recipe)
    record = contents.record
    if record is not None and record.scores:
        scores = [score.model_dump(mode="json") for score in record.scores]
        write(folder / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    if record is not None and record.proof:
        proof = {key: value for key, value in record.proof.items() if key != "adapter"}
        write(folder / "proof.json", json.dumps(proof, indent=2, ensure_ascii=False) + "\n")
    manifest = {
        "format": FORMAT,
        "name": contents.name,
        "kind": contents.kind,
        "weights": contents.gguf_name,
        "base": {"name": contents.base_name, "digest": contents.base_digest},
        "acts": list(contents.acts),
        "licences": [item.label for item in contents.derivative.found],
        "notice_lines": [
            item.duty.fields["line"]
            for item in contents.derivative.owed_for(*contents.acts)
            if item.duty.kind in {"notice-line", "built-with"}
        ],
        "created": contents.created.isoformat(),
    }
    write(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def digests_in(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path there with slashes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
