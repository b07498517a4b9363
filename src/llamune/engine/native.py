"""The C interface of llama.cpp, as xllamacpp's extension library exports it.

Structs are laid out as in `include/llama.h` of the pinned release (b11549). Before anything else
is called, the default-parameter structs are read back and compared with what that release
returns: a library laid out otherwise is refused here, not found out by a crash.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int8,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
)
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from llamune.engine.errors import EngineError, NativeMismatchError

__all__ = [
    "PINNED_VERSION",
    "Batch",
    "ContextParameters",
    "ModelParameters",
    "can_use_gpu",
    "extension",
    "library",
]

PINNED_VERSION = "2026.10.11549"

FLASH_OFF, FLASH_ON = 0, 1
FLASH_AUTO = -1
TYPE_F32, TYPE_F16 = 0, 1


class ModelParameters(Structure):
    """`struct llama_model_params`."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParameters(Structure):
    """`struct llama_context_params`."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        # b11549 has one pointer more here than the last header we could read; it stays NULL
        ("reserved", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(Structure):
    """`struct llama_batch`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


LogCallback = CFUNCTYPE(None, c_int, c_char_p, c_void_p)


def drop(_level: int, _text: bytes, _data: int | None) -> None:
    """Drop llama.cpp's log lines: what went wrong is told by return values."""


SILENT = LogCallback(drop)  # llama.cpp keeps the pointer: it lives as long as this module

# What the pinned release returns, for every field that is not NULL, 0 or false.
MODEL_DEFAULTS: dict[str, float] = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "lazy_mode": 1,
    "use_extra_bufts": True,
}
CONTEXT_DEFAULTS: dict[str, float] = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_outputs_max_per_seq": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": FLASH_AUTO,
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": -1.0,
    "yarn_beta_fast": -1.0,
    "yarn_beta_slow": -1.0,
    "defrag_thold": -1.0,
    "type_k": TYPE_F16,
    "type_v": TYPE_F16,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
}

SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_backend_init": (None, []),
    "llama_batch_free": (None, [Batch]),
    "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
    "llama_context_default_params": (ContextParameters, []),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_free": (None, [c_void_p]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParameters]),
    "llama_log_set": (None, [LogCallback, c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_model_default_params": (ModelParameters, []),
    "llama_model_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParameters]),
    "llama_model_load_from_splits": (
        c_void_p,
        [POINTER(c_char_p), c_size_t, ModelParameters],
    ),
    "llama_set_adapters_lora": (
        c_int32,
        [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)],
    ),
    "llama_supports_gpu_offload": (c_bool, []),
    "llama_token_to_piece": (
        c_int32,
        [c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool],
    ),
    "llama_tokenize": (
        c_int32,
        [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool],
    ),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
}


def extension() -> ModuleType:
    """Return xllamacpp, or say how to install it."""
    try:
        import xllamacpp
    except ImportError as error:
        raise EngineError(
            f"llama.cpp is not installed here ({error})",
            hint="install it with: pip install 'llamune[serve]'",
        ) from error
    return xllamacpp  # type: ignore[no-any-return]  # the package has no annotations


@cache
def library() -> Any:
    """Return the extension library with every function typed, its defaults verified.

    Returns:
        the `ctypes.CDLL`; typed `Any`, for its functions are attributes made at run time.

    Raises:
        NativeMismatchError: another release, a function missing, or other defaults.
    """
    package = extension()
    if package.__version__ != PINNED_VERSION:
        raise NativeMismatchError(f"xllamacpp {package.__version__} is not {PINNED_VERSION}")
    native = ctypes.CDLL(str(Path(package.xllamacpp.__file__)))
    for name, (result, arguments) in SIGNATURES.items():
        try:
            function = getattr(native, name)
        except AttributeError as error:
            raise NativeMismatchError(f"the library does not export {name}") from error
        function.restype = result
        function.argtypes = arguments
    compare(native.llama_model_default_params(), MODEL_DEFAULTS)
    compare(native.llama_context_default_params(), CONTEXT_DEFAULTS)
    native.llama_log_set(SILENT, None)
    native.llama_backend_init()
    return native


def can_use_gpu() -> bool:
    """Whether the installed llama.cpp was built for a GPU; True where that cannot be told."""
    try:
        return bool(library().llama_supports_gpu_offload())
    except NativeMismatchError:
        return True


def compare(
    found: Structure, expected: dict[str, int | bool] | dict[str, int | float | bool]
) -> None:
    """Raise unless every field of `found` has its expected value, the unnamed ones being zero.

    Raises:
        NativeMismatchError: naming the first field that differs.
    """
    for field in found._fields_:
        name = field[0]
        value = getattr(found, name) or 0
        wanted = expected.get(name, 0)
        if value != wanted:
            raise NativeMismatchError(
                f"{type(found).__name__}.{name} defaults to {value}, expected {wanted}"
            )
