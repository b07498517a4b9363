"""Makes files that lie: for the tests of the reader, of the command line, and for `make fuzz`."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from llamune.anatomy import sections_of, summarize
from llamune.errors import UnsupportedError
from llamune.gguf import Entry, ModelFile, NewTensor, ValueType, quant_type, write_gguf

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "IQ2_XXS", "IQ1_S", "MXFP4", "I8")
INTERESTING = (
    0, 1, 2, 3, 4, 7, 8, 9, 12, 13, 31, 32, 63, 64, 255, 256, 65_535, 65_536, 1 << 20,
    (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 61) + 1, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 32, (1 << 64) - 1,
)  # fmt: skip


def tensor(name: str, shape: tuple[int, ...], kind: str) -> NewTensor:
    stored = quant_type(kind)
    n_bytes = stored.row_bytes(shape[-1]) * int(np.prod(shape[:-1]))
    data = np.random.default_rng(len(name)).integers(0, 256, n_bytes, np.uint8)
    return NewTensor(name, shape, stored, lambda: [data])


@cache
def seed_files() -> tuple[bytes, ...]:
    """Return the bytes of small valid files that use everything the format has."""
    every_value = {
        "general.architecture": Entry.of("llama"),
        "general.file_type": Entry.of(2),
        "llama.attention.head_count": Entry.of(4),
        "llama.attention.head_count_kv": Entry.of([2, 0, 2]),
        "llama.embedding_length": Entry.of(64, ValueType.U64),
        "llama.rope.freq_base": Entry.of(1e4),
        "tokenizer.ggml.tokens": Entry.of(["<s>", "", "a\0b", "猫", "x" * 300]),
        "tokenizer.ggml.scores": Entry.of(np.zeros(5, np.float32)),
        "tokenizer.ggml.token_type": Entry.of([3, 1, 1, 1, 1]),
        "tokenizer.ggml.bos_token_id": Entry.of(0),
        "tokenizer.ggml.add_bos_token": Entry.of(True),
        "flags": Entry.of([True, False]),
        "bytes": Entry.of(b"\xff\xfe"),
        "small": Entry.of(-3, ValueType.I8),
        "double": Entry.of(0.1, ValueType.F64),
    }
    blocks = [tensor(f"blk.{i}.t.weight", (2, 256), kind) for i, kind in enumerate(TYPES)]
    edge = [tensor("token_embd.weight", (5, 32), "Q8_0"), tensor("one", (1,), "F32")]
    deep = [tensor("deep", (1, 2, 3, 4), "F16"), tensor("x" * 63, (7,), "F64")]
    wide = {"general.alignment": Entry.of(64), "general.type": Entry.of("adapter")}
    pair = [
        tensor("blk.0.attn_q.weight.lora_a", (2, 3), "F32"),
        tensor("blk.0.attn_q.weight.lora_b", (3, 2), "F32"),
    ]
    return (
        written(every_value, [*blocks, *edge], alignment=32),
        written(every_value, [], alignment=32),
        written({}, deep, alignment=32),
        written(wide, pair, alignment=64),
    )


def written(metadata: dict[str, Entry], tensors: list[NewTensor], *, alignment: int) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "seed.gguf"
        write_gguf(path, metadata=metadata, tensors=tensors, alignment=alignment)
        return path.read_bytes()


@cache
def fields_of(data: bytes) -> tuple[tuple[int, int], ...]:
    """Return the position and size of each number in the header: counts, lengths, types."""
    found = [(0, 4), (4, 4), (8, 8), (16, 8)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "seed.gguf"
        path.write_bytes(data)
        with ModelFile.open(path, mapped=False) as file:
            for key in file.metadata:
                start, _ = file.metadata.span(key)
                value = start + 8 + len(key.encode())
                found += [(start, 8), (value, 4), (value + 4, 8), (value + 8, 8)]
                if file.metadata.element_type(key) is not None:
                    found.append((value + 4, 4))
            for name, info in file.tensors.items():
                start, _ = file.entry_span(name)
                after_name = start + 8 + len(name.encode())
                found += [(start, 8), (after_name, 4)]
                found += [(after_name + 4 + 8 * i, 8) for i in range(len(info.shape))]
                after_shape = after_name + 4 + 8 * len(info.shape)
                found += [(after_shape, 4), (after_shape + 4, 8)]
    return tuple((at, size) for at, size in found if at + size <= len(data))


def mutated(chance: random.Random) -> bytes:
    """Return a seed file with one to four faults."""
    original = chance.choice(seed_files())
    data = bytearray(original)
    for _ in range(chance.randint(1, 4)):
        chance.choice(FAULTS)(data, original, chance)
    return bytes(data)


def flip_bit(data: bytearray, _: bytes, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, _: bytes, chance: random.Random) -> None:
    del data[chance.randint(0, len(data)) :]


def grow(data: bytearray, _: bytes, chance: random.Random) -> None:
    data += chance.randbytes(chance.randint(1, 64))


def lie(data: bytearray, original: bytes, chance: random.Random) -> None:
    """Put a strange number into a length, count, type or offset."""
    at, size = chance.choice(fields_of(original))
    if at + size <= len(data):
        value = chance.choice(INTERESTING) if chance.random() < 0.8 else chance.getrandbits(64)
        data[at : at + size] = struct.pack("<Q", value & ((1 << 64) - 1))[:size]


def nudge(data: bytearray, original: bytes, chance: random.Random) -> None:
    """Change a length, count, type or offset by a little."""
    at, size = chance.choice(fields_of(original))
    if at + size <= len(data):
        value = int.from_bytes(data[at : at + size], "little") + chance.choice((-32, -1, 1, 32))
        data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


def copy_over(data: bytearray, _: bytes, chance: random.Random) -> None:
    """Write a piece of the file over another: names and entries appear twice."""
    if len(data) > 64:
        size = chance.randint(1, 64)
        source, target = (chance.randrange(len(data) - size) for _ in range(2))
        data[target : target + size] = data[source : source + size]


def remove(data: bytearray, _: bytes, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.randint(1, 16)]


FAULTS = (flip_bit, cut, grow, lie, lie, lie, nudge, nudge, copy_over, remove)


def use_everything(path: Path, *, mapped: bool) -> None:
    """Open a file and touch all that it holds, as our commands do."""
    with ModelFile.open(path, mapped=mapped) as file:
        for key in file.metadata:
            file.metadata.entry(key)
            _ = file.metadata[key]
        for name in file.tensors:
            try:
                file.floats(name, threads=1)
            except UnsupportedError:  # a type that ggml cannot unpack
                file.packed(name)
        sizes = [section.nbytes for section in sections_of(file)]
        assert sum(sizes) == file.size
        assert min(sizes) >= 0
        summarize(file)


def mutations(number: int, *, seed: int) -> Iterator[bytes]:
    """Yield mutated files, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(number):
        yield mutated(chance)
