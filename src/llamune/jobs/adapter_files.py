"""Adapters in and out of the library: PEFT folders and GGUF files."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from llamune.adapter import (
    LoraAdapter,
    check_base,
    check_shapes,
    read_adapter,
    write_adapter,
    write_peft,
)
from llamune.arch import Family, describe
from llamune.errors import LlamuneError
from llamune.files import refuse_existing, sha256_of
from llamune.gguf import ModelFile
from llamune.jobs.adapters import path_named
from llamune.runs import Run
from llamune.store import Model, home, publish_adapter, resolve

__all__ = ["export_adapter", "import_adapter"]


def import_adapter(
    path: Path, base_ref: str, *, name: str, force: bool = False, replace_existing: bool = False
) -> Model:
    """Check an adapter against its base and publish both as a model.

    Args:
        path: PEFT folder or GGUF adapter file, whoever made it.
        base_ref: the model that it was trained on.
        name: under which it appears in our library.
        force: publish it although it says that it is for another base.
        replace_existing: whether a model of that name may be replaced.

    Raises:
        AdapterError: it is damaged, or does not fit the base.
        UnsupportedError: it holds something that a GGUF adapter cannot express.
    """
    base = resolve(base_ref)
    digest = base.digest or f"sha256:{sha256_of(base.path)}"
    home().mkdir(parents=True, exist_ok=True)
    with (
        ModelFile.open(base.paths) as file,
        tempfile.TemporaryDirectory(prefix=".llamune-adapter-", dir=home()) as scratch,
    ):
        adapter = read_adapter(path, describe(file))
        check_base(adapter, digest, force=force)
        check_shapes(adapter, file)
        gguf = Path(scratch) / "adapter.gguf"
        write_adapter(adapter, file, gguf, base_digest=digest)
        return publish_adapter(
            name,
            replace(base, adapters=()),
            gguf,
            annotations={"llamune.base.digest": digest, "llamune.base.name": str(base)},
            replace=replace_existing,
        )


def export_adapter(name: str, out: Path, *, base: str | None = None) -> LoraAdapter:
    """Write an adapter as a PEFT folder, or as a GGUF file when `out` ends in `.gguf`.

    Args:
        name: a tuned model or run, a GGUF adapter, or a PEFT folder.
        out: the new folder or file.
        base: the model it belongs to; default what `name` says.

    Raises:
        LlamuneError: its base is not known, or `out` exists.
        UnsupportedError: it holds something that cannot be expressed there.
    """
    refuse_existing(out, replace=False)
    model = resolve(base or base_of(name))
    with ModelFile.open(model.paths) as file:
        family = describe(file)
        adapter = read_adapter(path_named(name), family)
        check_shapes(adapter, file)
        if base is not None:
            check_base(adapter, model.digest)
        if out.suffix.lower() == ".gguf":
            write_adapter(adapter, file, out, base_digest=adapter.base_digest or model.digest)
        else:
            write_with_base(adapter, family, out, model)
    return adapter


def write_with_base(adapter: LoraAdapter, family: Family, out: Path, model: Model) -> None:
    """Write a PEFT folder that says which base it belongs to."""
    bound = replace(adapter, base_digest=adapter.base_digest or model.digest)
    write_peft(bound, family, out, base_name=str(model))


def base_of(name: str) -> str:
    """Return the base that a tuned model or run says.

    Raises:
        LlamuneError: it is only a file or folder.
    """
    if Path(name).exists():
        raise LlamuneError(f"{name}: which base is it for?", hint="--base REF")
    try:
        record = Run.find(name).record
    except LlamuneError:
        return name  # a tuned model holds its base's file
    if record.base is None:
        raise LlamuneError(f"{name}: the run does not say its base", hint="--base REF")
    return record.base.reference
