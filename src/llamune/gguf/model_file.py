"""An opened, checked model: one GGUF file or its shards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from llamune.gguf.errors import GgufError
from llamune.gguf.header import Header, TensorInfo, read_header
from llamune.gguf.kernels import rows_to_floats
from llamune.gguf.metadata import Metadata
from llamune.gguf.source import Source

__all__ = ["ModelFile", "shard_paths"]

SHARD_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
MAX_SHARDS = 10_000


class ModelFile:
    """A model's metadata, tensor table and data. Use `open`, and `with`.

    Attributes:
        sources: the opened files, first shard first.
        headers: what each says.
        metadata: the first shard's metadata.
        tensors: tensor name → description, in file order over all shards.
        warnings: things that are allowed but odd, in words.
    """

    def __init__(self, sources: Sequence[Source], headers: Sequence[Header]) -> None:
        self.sources = tuple(sources)
        self.headers = tuple(headers)
        self.metadata = Metadata(self.sources[0], self.headers[0].slots)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(merged(sources, headers))
        self.warnings = tuple(
            f"{source.path}: {text}"
            for source, header in zip(sources, headers, strict=True)
            for text in header.warnings
        )

    @classmethod
    def open(cls, path: Path | str | Sequence[Path], *, mapped: bool = True) -> ModelFile:
        """Open and check a model.

        Args:
            path: a GGUF file (a split model's first shard finds the others), or all shards.
            mapped: serve tensor data from a memory map. Only for files that nobody changes
                while they are open (a store's blobs): one that shrinks kills the process.
                Otherwise each piece is read anew after a check that the file is unchanged.

        Raises:
            GgufError: the file cannot be read, or breaks a rule of the format.
        """
        paths = shard_paths(Path(path)) if isinstance(path, Path | str) else list(path)
        sources: list[Source] = []
        try:
            headers = []
            for shard, one in enumerate(paths):
                source = Source(one, mapped=mapped)
                sources.append(source)
                headers.append(read_header(source, shard))
            check_shards(sources, headers)
            return cls(sources, headers)
        except BaseException:
            for source in sources:
                source.close()
            raise

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Views of mapped data stay usable."""
        for source in self.sources:
            source.close()

    @property
    def path(self) -> Path:
        """The file, or the first shard."""
        return self.sources[0].path

    @property
    def paths(self) -> tuple[Path, ...]:
        """All shards."""
        return tuple(source.path for source in self.sources)

    @property
    def size(self) -> int:
        """Bytes of all shards together."""
        return sum(source.size for source in self.sources)

    @property
    def version(self) -> int:
        """The GGUF version, 2 or 3."""
        return self.headers[0].version

    @property
    def alignment(self) -> int:
        """Every tensor begins at a multiple of this many bytes."""
        return self.headers[0].alignment

    @property
    def data_offset(self) -> int:
        """Where tensor data begins in the first shard, bytes."""
        return self.headers[0].data_offset

    @property
    def data_offsets(self) -> tuple[int, ...]:
        """Where tensor data begins in each shard, bytes."""
        return tuple(header.data_offset for header in self.headers)

    @cached_property
    def architecture(self) -> str:
        """The model family's name in the file, such as `llama`."""
        return self.metadata.text("general.architecture")

    def tensor(self, name: str) -> TensorInfo:
        """Return the description of a tensor.

        Raises:
            GgufError: there is no such tensor.
        """
        if name not in self.tensors:
            raise GgufError(
                self.path,
                rule="tensor name",
                problem=f"there is no tensor {name!r}",
                hint="`llamune inspect REF --blocks` lists the tensors",
            )
        return self.tensors[name]

    def entry_span(self, name: str) -> tuple[int, int]:
        """Return the position and the bytes of a tensor's entry in its shard's header."""
        return self.headers[self.tensor(name).shard].spans[name]

    def packed(
        self, name: str, start: int = 0, stop: int | None = None
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return rows of a tensor as they are stored.

        Args:
            name: the tensor.
            start: first row.
            stop: row after the last; default all.

        Returns:
            uint8 (rows, row bytes), read-only: a view of the map, or a copy when not mapped.

        Raises:
            GgufError: there is no such tensor, or the file has changed.
        """
        tensor = self.tensor(name)
        first, last, _ = slice(start, stop).indices(tensor.n_rows)
        n_rows = max(0, last - first)
        data = self.sources[tensor.shard].view(
            tensor.offset + first * tensor.row_bytes, n_rows * tensor.row_bytes
        )
        return data.reshape(n_rows, tensor.row_bytes)

    def floats(
        self, name: str, start: int = 0, stop: int | None = None, *, threads: int | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return rows of a tensor as numbers, float32 (rows, columns).

        Raises:
            GgufError: there is no such tensor, or the file has changed.
            UnsupportedError: ggml cannot unpack its type.
        """
        packed = self.packed(name, start, stop)
        return rows_to_floats(packed, self.tensors[name].type, threads=threads)


def shard_paths(path: Path) -> list[Path]:
    """Return all shards of a split model named as llama.cpp names them, else the path alone.

    Raises:
        GgufError: the name promises more shards than anybody has.
    """
    match = SHARD_NAME.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= MAX_SHARDS:
        raise GgufError(path, rule="shards", problem="the shard number in the name is impossible")
    return [
        path.with_name(f"{match['prefix']}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    ]


def check_shards(sources: Sequence[Source], headers: Sequence[Header]) -> None:
    """Refuse shards that do not belong together.

    Raises:
        GgufError: a shard is missing, of another model or out of order.
    """
    for number, (source, header) in enumerate(zip(sources, headers, strict=True)):
        metadata = Metadata(source, header.slots)
        count = split_number(metadata, "split.count", default=1)
        if count != len(sources) and not (count == 0 and len(sources) == 1):
            raise GgufError(
                source.path,
                rule="shards",
                problem=f"belongs to a model of {count} files, but {len(sources)} are given",
                hint="keep all shards in one folder under the names llama.cpp gave them",
            )
        place = split_number(metadata, "split.no", default=0)
        if len(sources) > 1 and place != number:
            raise GgufError(
                source.path, rule="shards", problem=f"is shard {place}, expected {number}"
            )
    total = split_number(Metadata(sources[0], headers[0].slots), "split.tensors.count", default=-1)
    found = sum(len(header.tensors) for header in headers)
    if len(sources) > 1 and total not in (-1, found):
        raise GgufError(
            sources[0].path,
            rule="shards",
            problem=f"the shards hold {found} tensors, split.tensors.count says {total}",
        )


def split_number(metadata: Metadata, key: str, *, default: int) -> int:
    """Return a whole number about shards; Ollama puts the architecture in front of the key."""
    for name in metadata:
        if name == key or name.endswith(f".{key}"):
            return metadata.integer(name)
    return default


def merged(sources: Sequence[Source], headers: Sequence[Header]) -> dict[str, TensorInfo]:
    """Return the tensors of all shards.

    Raises:
        GgufError: two shards hold a tensor of the same name.
    """
    tensors: dict[str, TensorInfo] = {}
    for source, header in zip(sources, headers, strict=True):
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise GgufError(
                    source.path,
                    rule="unique tensors",
                    problem=f"tensor {tensor.name!r} is in another shard too",
                    offset=header.spans[tensor.name][0],
                )
            tensors[tensor.name] = tensor
    return tensors
