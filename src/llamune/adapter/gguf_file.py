"""LoRA adapters as GGUF files, the way llama.cpp loads them.

Source: llama.cpp's `llama-adapter.cpp` (names, shapes, scale = alpha / rank) and
`convert_lora_to_gguf.py`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from llamune.adapter.errors import AdapterError
from llamune.adapter.lora import Floats, LoraAdapter, LoraPair
from llamune.adapter.peft_folder import read_peft
from llamune.arch import Family
from llamune.errors import UnsupportedError
from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf

__all__ = ["DIGEST_KEY", "read_gguf_adapter", "write_adapter", "write_gguf_adapter"]

DIGEST_KEY = "llamune.base.digest"
EMBEDDING = "token_embd.weight"
A_ENDING, B_ENDING = ".lora_a", ".lora_b"
TYPES = ("F32", "F16")


def write_gguf_adapter(
    peft_folder: Path,
    base: ModelFile,
    family: Family,
    out: Path,
    *,
    base_digest: str | None,
    replace: bool = False,
) -> LoraAdapter:
    """Write a PEFT adapter folder as a GGUF adapter and return what was written.

    Args:
        peft_folder: PEFT's folder.
        base: the base file.
        family: what `arch.describe` said of the base.
        out: the new file.
        base_digest: `sha256:…` of the base, kept in the file.
        replace: whether a file at `out` may be replaced.

    Raises:
        AdapterError: the folder is damaged or does not fit the base.
        UnsupportedError: a GGUF adapter cannot express it.
    """
    adapter = read_peft(peft_folder, family)
    write_adapter(adapter, base, out, base_digest=base_digest, replace=replace)
    return adapter


def write_adapter(
    adapter: LoraAdapter,
    base: ModelFile,
    out: Path,
    *,
    base_digest: str | None,
    kind: str = "F32",
    replace: bool = False,
) -> None:
    """Write an adapter as a GGUF file.

    llama.cpp knows one alpha for the whole file and computes alpha / rank per tensor; where a
    weight's scale is another, the ratio goes into its B.

    Args:
        adapter: the adapter, rows in the file's order.
        base: the base file.
        out: the new file.
        base_digest: `sha256:…` of the base; default what the adapter says itself.
        kind: F32, which is exact, or F16.
        replace: whether a file at `out` may be replaced.

    Raises:
        UnsupportedError: DoRA or whole weights, which a GGUF adapter cannot express.
    """
    refuse_inexpressible(adapter)
    alphas = Counter(pair.scale * pair.rank for pair in adapter.pairs.values())
    alpha = float(np.float32(alphas.most_common(1)[0][0]))
    metadata = {
        "general.type": Entry.of("adapter"),
        "general.architecture": Entry.of(base.architecture),
        "general.file_type": Entry.of(TYPES.index(kind)),
        "adapter.type": Entry.of("lora"),
        "adapter.lora.alpha": Entry.of(alpha),
    }
    if adapter.task_name:
        metadata["adapter.lora.task_name"] = Entry.of(adapter.task_name)
    if digest := base_digest or adapter.base_digest:
        metadata[DIGEST_KEY] = Entry.of(digest)
    tensors = []
    for name, pair in adapter.pairs.items():
        factor = np.float32(pair.scale * pair.rank / alpha) if alpha else np.float32(1)
        a = np.ascontiguousarray(pair.a.T) if pair.embedding else pair.a
        b = pair.b if factor == 1 else pair.b * factor
        tensors += [
            new_tensor(f"{name}{A_ENDING}", a, kind),
            new_tensor(f"{name}{B_ENDING}", b, kind),
        ]
    write_gguf(out, metadata=metadata, tensors=tensors, replace=replace)


def refuse_inexpressible(adapter: LoraAdapter) -> None:
    """Raise for what llama.cpp's adapters do not have.

    Raises:
        UnsupportedError: DoRA, or whole trained weights.
    """
    hint = "merge it into its base instead: `llamune merge`"
    if adapter.is_dora:
        raise UnsupportedError(
            f"{adapter.path}: DoRA's row lengths cannot be expressed in a GGUF adapter", hint=hint
        )
    if adapter.replaced:
        name = next(iter(adapter.replaced))
        raise UnsupportedError(
            f"{adapter.path}: the whole weight {name} was trained; a GGUF adapter holds "
            "thin matrices only",
            hint=hint,
        )


def new_tensor(name: str, array: Floats, kind: str) -> NewTensor:
    """Return a tensor of an adapter file."""
    data = np.ascontiguousarray(array, "<f4" if kind == "F32" else "<f2")
    return NewTensor(name, array.shape, quant_type(kind), lambda: [data.tobytes()])


def read_gguf_adapter(path: Path) -> LoraAdapter:
    """Read a GGUF adapter.

    Raises:
        GgufError: the file breaks a rule of the format.
        AdapterError: it is no LoRA adapter, or half of a pair is missing.
        UnsupportedError: tensors or keys that we do not apply exactly as llama.cpp does.
    """
    with ModelFile.open(path, mapped=False) as file:
        keys = file.metadata
        if keys.text("general.type", default="model") != "adapter":
            raise AdapterError(f"{path}: general.type is not `adapter`: this is no adapter file")
        if (kind := keys.text("adapter.type", default="")) != "lora":
            raise UnsupportedError(f"{path}: adapter.type is {kind!r}, only `lora` is known")
        if "adapter.alora.invocation_tokens" in keys:
            raise UnsupportedError(f"{path}: an adapter that acts only after certain tokens")
        alpha = keys.number("adapter.lora.alpha", default=0.0)
        names = pair_names(path, file)
        return LoraAdapter(
            path=path,
            pairs={name: read_pair(file, name, alpha) for name in names},
            architecture=keys.text("general.architecture"),
            base_digest=keys.text(DIGEST_KEY, default="") or None,
            task_name=keys.text("adapter.lora.task_name", default="") or None,
        )


def pair_names(path: Path, file: ModelFile) -> list[str]:
    """Return the base's tensor names that an adapter file changes.

    Raises:
        AdapterError: no pair, or half of one.
        UnsupportedError: a tensor that is neither A nor B.
    """
    halves: dict[str, set[str]] = {}
    for name in file.tensors:
        stem, dot, ending = name.rpartition(".lora_")
        if not dot or ending not in {"a", "b"}:
            raise UnsupportedError(f"{path}: tensor {name!r} is neither lora_a nor lora_b")
        halves.setdefault(stem, set()).add(ending)
    lonely = [stem for stem, found in halves.items() if len(found) != 2]
    if lonely or not halves:
        raise AdapterError(
            f"{path}: {lonely[0]}: one of A and B is missing"
            if lonely
            else f"{path}: holds no LoRA weights"
        )
    return list(halves)


def read_pair(file: ModelFile, name: str, alpha: float) -> LoraPair:
    """Return one pair; alpha 0 means that llama.cpp applies B A as it is.

    Raises:
        AdapterError: the two do not multiply.
        UnsupportedError: stacked experts.
    """
    if any(len(file.tensors[name + end].shape) != 2 for end in (A_ENDING, B_ENDING)):
        raise UnsupportedError(f"{file.path}: {name}: adapters on stacked experts")
    a, b = file.floats(name + A_ENDING), file.floats(name + B_ENDING)
    embedding = name == EMBEDDING
    a = a.T if embedding else a
    if a.shape[0] != b.shape[1]:
        raise AdapterError(f"{file.path}: {name}: A {a.shape} and B {b.shape} do not multiply")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise AdapterError(f"{file.path}: {name}: holds values that are not finite")
    scale = alpha / a.shape[0] if alpha else 1.0
    return LoraPair(a=a, b=b, scale=scale, embedding=embedding)
