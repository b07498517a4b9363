"""Whole next-token distributions of given token sequences, as llama.cpp computes them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from llamune.engine import native
from llamune.engine.errors import EngineError, NativeMismatchError
from llamune.engine.headers import check_headers
from llamune.engine.threads import default_threads
from llamune.errors import LlamuneError
from llamune.gguf import ModelFile

if TYPE_CHECKING:  # numpy takes as long to import as the first answer to begin
    import numpy as np
    import numpy.typing as npt

__all__ = ["AdapterFile", "NativeModel", "prompt_logits"]

KvType = Literal["f16", "f32"]
KV_TYPES = {"f32": native.TYPE_F32, "f16": native.TYPE_F16}
FLASH = {None: native.FLASH_AUTO, False: native.FLASH_OFF, True: native.FLASH_ON}


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """A GGUF adapter and how strongly it acts."""

    path: Path
    scale: float = 1.0


class NativeModel:
    """A model loaded through llama.cpp's C interface; a context manager.

    Args:
        paths: the GGUF file, or its shards in order.
        adapters: GGUF adapters to load beside it; `logits` uses all of them unless told which.
        n_gpu_layers: layers to put on a GPU; -1 = as many as there are, 0 = none.

    Raises:
        NativeMismatchError: the library's C interface is not the pinned one.
        GgufError: a file's header breaks a rule of the format.
        EngineError: llama.cpp refuses the model or an adapter.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        *,
        adapters: Sequence[AdapterFile] = (),
        n_gpu_layers: int = -1,
    ) -> None:
        self._library = native.library()
        self.adapters = tuple(adapters)
        self._model = self._load([paths] if isinstance(paths, Path) else list(paths), n_gpu_layers)
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self.n_vocab = int(self._library.llama_vocab_n_tokens(self._vocabulary))
        try:
            self._handles = {adapter.path: self._load_adapter(adapter.path) for adapter in adapters}
        except LlamuneError:
            self.close()
            raise

    def _load(self, paths: list[Path], n_gpu_layers: int) -> int:
        ModelFile.open(paths).close()  # a hostile header never reaches llama.cpp
        parameters = self._library.llama_model_default_params()
        parameters.n_gpu_layers = n_gpu_layers
        names = [str(path).encode() for path in paths]
        if len(names) == 1:
            model = self._library.llama_model_load_from_file(names[0], parameters)
        else:
            array = (ctypes.c_char_p * len(names))(*names)
            model = self._library.llama_model_load_from_splits(array, len(names), parameters)
        if not model:
            raise EngineError(f"{paths[0]}: llama.cpp cannot load this model")
        return int(model)

    def _load_adapter(self, path: Path) -> int:
        check_headers([path])
        handle = self._library.llama_adapter_lora_init(self._model, str(path).encode())
        if not handle:
            raise EngineError(
                f"{path}: llama.cpp cannot load this adapter",
                hint="is it a GGUF adapter made for this base model?",
            )
        return int(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and its adapters; safe to call twice."""
        if self._model:
            self._library.llama_model_free(self._model)
            self._model = 0

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Return llama.cpp's own token ids of a text.

        Args:
            text: any text.
            add_special: whether BOS (and EOS) are added as the file asks for.
            parse_special: whether control tokens spelled out in the text become those tokens.
        """
        raw = text.encode()
        room = len(raw) + 2  # never more tokens than bytes, plus BOS and EOS
        ids = (ctypes.c_int32 * room)()
        n = self._library.llama_tokenize(
            self._vocabulary, raw, len(raw), ids, room, add_special, parse_special
        )
        if n < 0:
            raise EngineError(f"llama.cpp cannot tokenize a text of {len(raw)} bytes")
        return list(ids[:n])

    def logits(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        n_batch: int = 512,
        kv_type: KvType = "f16",
        flash: bool | None = None,
        n_threads: int | None = None,
        adapters: Sequence[AdapterFile] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield, for each sequence, the logits that follow each of its tokens.

        Args:
            sequences: token ids; each is run on its own, from position 0.
            n_batch: tokens in one pass; results differ in their last bits with it.
            kv_type: number type of the key/value cache.
            flash: flash attention on or off; None leaves the choice to llama.cpp.
            n_threads: CPU threads; default the idle cores.
            adapters: which of the loaded adapters act, and how strongly; default all.

        Yields:
            float32 (n_tokens, n_vocab) a sequence.

        Raises:
            EngineError: an empty sequence, an id outside the vocabulary, or llama.cpp fails.
        """
        import numpy as np

        if not sequences:
            return
        for number, sequence in enumerate(sequences):
            self._check(number, sequence)
        longest = max(map(len, sequences))
        with self._runner(
            n_ctx=longest,
            n_batch=n_batch,
            kv_type=kv_type,
            flash=flash,
            n_threads=n_threads,
            adapters=adapters,
        ) as run:
            for sequence in sequences:
                out = np.empty((len(sequence), self.n_vocab), np.float32)
                start = 0
                for chunk in run(sequence):
                    out[start : start + len(chunk)] = chunk
                    start += len(chunk)
                yield out

    def logit_chunks(
        self,
        sequence: Sequence[int],
        *,
        n_batch: int = 256,
        kv_type: KvType = "f16",
        flash: bool | None = None,
        n_threads: int | None = None,
        adapters: Sequence[AdapterFile] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the logits that follow each token of one sequence, a batch at a time.

        Memory stays at one batch, where the whole array of a long prompt over a large vocabulary
        would take gigabytes. Arguments and errors are those of `logits`.

        Yields:
            float32 (n, n_vocab), in order; valid until the next one is asked for.
        """
        self._check(0, sequence)
        with self._runner(
            n_ctx=len(sequence),
            n_batch=n_batch,
            kv_type=kv_type,
            flash=flash,
            n_threads=n_threads,
            adapters=adapters,
        ) as run:
            yield from run(sequence)

    def text(self, ids: Sequence[int]) -> str:
        """Return what token ids spell, control tokens written out."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; a control token's are its name."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = self._library.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, True)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    @contextmanager
    def _runner(
        self,
        *,
        n_ctx: int,
        n_batch: int,
        kv_type: KvType,
        flash: bool | None,
        n_threads: int | None,
        adapters: Sequence[AdapterFile] | None,
    ) -> Iterator[Callable[[Sequence[int]], Iterator[npt.NDArray[np.float32]]]]:
        """Yield a function that runs a sequence of up to `n_ctx` tokens, chunk by chunk."""
        n_batch = min(n_batch, n_ctx)
        with (
            self._context(
                n_ctx=n_ctx,
                n_batch=n_batch,
                kv_type=kv_type,
                flash=flash,
                n_threads=n_threads or default_threads(),
            ) as context,
            self._batch(n_batch) as batch,
        ):
            self._attach(context, self.adapters if adapters is None else adapters)
            yield lambda sequence: self._run(context, batch, sequence, n_batch)

    def _check(self, number: int, sequence: Sequence[int]) -> None:
        if not sequence:
            raise EngineError(f"sequence {number} has no tokens")
        if not 0 <= min(sequence) <= max(sequence) < self.n_vocab:
            raise EngineError(
                f"sequence {number} has a token id outside the vocabulary of {self.n_vocab}"
            )

    @contextmanager
    def _context(
        self, *, n_ctx: int, n_batch: int, kv_type: KvType, flash: bool | None, n_threads: int
    ) -> Iterator[int]:
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx = n_ctx
        parameters.n_batch = parameters.n_ubatch = n_batch
        # every token's logits are wanted, not the last one's alone
        parameters.n_outputs_max = parameters.n_outputs_max_per_seq = n_batch
        parameters.n_threads = parameters.n_threads_batch = n_threads
        parameters.type_k = parameters.type_v = KV_TYPES[kv_type]
        parameters.flash_attn_type = FLASH[flash]
        context = self._library.llama_init_from_model(self._model, parameters)
        if not context:
            raise EngineError(f"llama.cpp cannot make a context of {n_ctx} tokens")
        try:
            yield int(context)
        finally:
            self._library.llama_free(context)

    @contextmanager
    def _batch(self, n_tokens: int) -> Iterator[native.Batch]:
        batch = self._library.llama_batch_init(n_tokens, 0, 1)
        try:
            yield batch
        finally:
            self._library.llama_batch_free(batch)

    def _attach(self, context: int, adapters: Sequence[AdapterFile]) -> None:
        n = len(adapters)
        handles = (ctypes.c_void_p * n)(*(self._handles[adapter.path] for adapter in adapters))
        scales = (ctypes.c_float * n)(*(adapter.scale for adapter in adapters))
        if self._library.llama_set_adapters_lora(context, handles, n, scales):
            raise EngineError("llama.cpp cannot attach the adapters")

    def _run(
        self, context: int, batch: native.Batch, sequence: Sequence[int], n_batch: int
    ) -> Iterator[npt.NDArray[np.float32]]:
        import numpy as np

        self._library.llama_memory_clear(self._library.llama_get_memory(context), True)
        for start in range(0, len(sequence), n_batch):
            chunk = sequence[start : start + n_batch]
            fill(batch, chunk, start)
            code = self._library.llama_decode(context, batch)
            if code:
                raise EngineError(f"llama.cpp failed at token {start} (llama_decode gave {code})")
            found = self._library.llama_get_logits(context)
            yield np.ctypeslib.as_array(found, (len(chunk), self.n_vocab))


def fill(batch: native.Batch, ids: Sequence[int], first_position: int) -> None:
    """Put the tokens of one sequence into a batch, logits wanted for each."""
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i] = token
        batch.pos[i] = first_position + i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = 1


def prompt_logits(
    path: Path | Sequence[Path],
    sequences: Sequence[Sequence[int]],
    *,
    adapters: Sequence[AdapterFile] = (),
    n_batch: int = 512,
    kv_type: KvType = "f16",
    flash: bool | None = None,
    n_threads: int | None = None,
    n_gpu_layers: int = -1,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield llama.cpp's next-token distributions for each sequence.

    Through the C interface; where the installed library's is not the pinned one, through the
    embedded server's JSON, which gives log-probabilities (logits up to a constant a position)
    and takes some hundred times longer.

    Args:
        path: the GGUF file, or its shards in order.
        sequences: token ids; each is run on its own, from position 0.
        adapters: GGUF adapters to apply.
        n_batch: tokens in one pass.
        kv_type: number type of the key/value cache.
        flash: flash attention on or off; None leaves the choice to llama.cpp.
        n_threads: CPU threads; default the idle cores.
        n_gpu_layers: layers to put on a GPU; -1 = as many as there are, 0 = none.

    Yields:
        float32 (n_tokens, n_vocab) a sequence.

    Raises:
        EngineError: llama.cpp refuses the model, an adapter or the tokens.
    """
    options: dict[str, Any] = {
        "n_batch": n_batch,
        "kv_type": kv_type,
        "flash": flash,
        "n_threads": n_threads,
    }
    with ExitStack() as stack:
        try:
            model = stack.enter_context(
                NativeModel(path, adapters=adapters, n_gpu_layers=n_gpu_layers)
            )
        except NativeMismatchError:
            from llamune.engine.slow_logits import json_logits

            yield from json_logits(
                path, sequences, adapters=adapters, n_gpu_layers=n_gpu_layers, **options
            )
        else:
            yield from model.logits(sequences, **options)
