"""llama.cpp's own tokenizer, as the judge of ours: the vocabulary of a file, nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamune.engine import native


class Oracle:
    """The vocabulary of a model file in llama.cpp."""

    def __init__(self, path: Path) -> None:
        self.library = native.library()
        self.library.llama_vocab_is_eog.restype = ctypes.c_bool
        self.library.llama_vocab_is_eog.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self.library.llama_token_to_piece.restype = ctypes.c_int32
        self.library.llama_token_to_piece.argtypes = [
            *(ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32),
            *(ctypes.c_int32, ctypes.c_bool),
        ]
        parameters = self.library.llama_model_default_params()
        parameters.vocab_only = True
        self.model = self.library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise ValueError(f"llama.cpp refuses {path}")
        self.vocab = self.library.llama_model_get_vocab(self.model)
        self.n_tokens: int = self.library.llama_vocab_n_tokens(self.vocab)

    def encode(
        self, text: str, *, parse_special: bool = True, add_special: bool = False
    ) -> list[int]:
        data = text.encode()
        room = len(data) * 2 + 16
        ids = (ctypes.c_int32 * room)()
        count = self.library.llama_tokenize(
            self.vocab, data, len(data), ids, room, add_special, parse_special
        )
        assert count >= 0, count
        return list(ids[:count])

    def ends(self) -> frozenset[int]:
        return frozenset(
            id_ for id_ in range(self.n_tokens) if self.library.llama_vocab_is_eog(self.vocab, id_)
        )

    def piece(self, id_: int) -> bytes:
        room = 4096
        buffer = ctypes.create_string_buffer(room)
        count = self.library.llama_token_to_piece(self.vocab, id_, buffer, room, 0, True)
        assert count >= 0, count
        return buffer.raw[:count]

    def close(self) -> None:
        self.library.llama_model_free(self.model)


@contextmanager
def oracle(path: Path) -> Iterator[Oracle]:
    judge = Oracle(path)
    try:
        yield judge
    finally:
        judge.close()
