"""The tensors of a file as they are, to write it again with other keys."""

from __future__ import annotations

from llamune.gguf import ModelFile, NewTensor


def tensors_of(file: ModelFile) -> list[NewTensor]:
    def copied(name: str) -> NewTensor:
        info = file.tensors[name]
        return NewTensor(name, info.shape, info.type, lambda: [file.packed(name)])

    return [copied(name) for name in file.tensors]
