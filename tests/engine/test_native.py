"""The C interface: layouts, whole distributions, and what is refused."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from llamune.engine import EngineError, NativeMismatchError, NativeModel, native, prompt_logits
from llamune.engine.slow_logits import json_logits
from llamune.gguf import GgufError

IDS = [1, 4093, 198, 28120, 2, 198, 504, 3575]


def test_structs_are_as_large_as_the_library_fills_them():
    # what `llama_*_default_params` writes into a zeroed and into a filled buffer is the same up
    # to the struct's end; x86-64 passes the result's address as the first argument
    library = ctypes.CDLL(native.extension().xllamacpp.__file__)
    for name, struct in (
        ("llama_model_default_params", native.ModelParameters),
        ("llama_context_default_params", native.ContextParameters),
    ):
        function = library[name]
        function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        filled = []
        for byte in (0x00, 0xA5):
            buffer = (ctypes.c_uint8 * 512)(*([byte] * 512))
            function(buffer)
            filled.append(bytes(buffer))
        written = 1 + max(i for i in range(512) if filled[0][i] == filled[1][i])
        size = ctypes.sizeof(struct)
        assert size - 8 < written <= size, name  # the compiler pads to 8 bytes


def test_a_default_that_differs_is_refused():
    found = native.library().llama_context_default_params()
    native.compare(found, native.CONTEXT_DEFAULTS)
    found.swa_full = False
    with pytest.raises(NativeMismatchError, match="swa_full"):
        native.compare(found, native.CONTEXT_DEFAULTS)


def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "PINNED_VERSION", "1.2.3")
    with pytest.raises(NativeMismatchError, match=r"1\.2\.3"):
        native.library.__wrapped__()


def test_positions_do_not_see_what_follows(starter_path: Path):
    with NativeModel(starter_path) as model:
        whole, part = model.logits([IDS, IDS[:5]], n_threads=1)
    assert whole.shape == (len(IDS), model.n_vocab)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole[:5], part, atol=1e-4)


def test_batches_cover_a_sequence_that_is_longer(starter_path: Path):
    with NativeModel(starter_path) as model:
        (at_once,) = model.logits([IDS], n_threads=1, kv_type="f32", flash=False)
        (in_threes,) = model.logits([IDS], n_threads=1, kv_type="f32", flash=False, n_batch=3)
    assert np.abs(at_once - in_threes).max() < 2  # Q4_1 kernels differ with the batch
    assert (at_once.argmax(-1) == in_threes.argmax(-1)).mean() > 0.7


def test_the_json_fallback_gives_the_same_distributions(
    starter_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (exact,) = prompt_logits(starter_path, [IDS[:2]], n_threads=1)

    def mismatch() -> None:
        raise NativeMismatchError("not the pinned one")

    monkeypatch.setattr(native, "library", mismatch)
    (slow,) = prompt_logits(starter_path, [IDS[:2]], n_threads=1)
    (direct,) = json_logits(starter_path, [IDS[:1]], n_threads=1)
    np.testing.assert_array_equal(slow[:1], direct)
    exact -= exact.max(-1, keepdims=True)
    exact -= np.log(np.exp(exact.astype(np.float64)).sum(-1, keepdims=True))
    np.testing.assert_allclose(slow, exact, atol=2e-2)


def test_tokenize_is_llama_cpps_own(starter_path: Path):
    with NativeModel(starter_path) as model:
        assert model.tokenize("<|im_start|>user\n") == [1, 4093, 198]
        assert 1 not in model.tokenize("<|im_start|>user\n", parse_special=False)
        assert model.tokenize("") == []


@pytest.mark.parametrize("ids", [[], [-1], [49_152]])
def test_tokens_that_cannot_be_run_are_refused(starter_path: Path, ids: list[int]):
    with NativeModel(starter_path) as model, pytest.raises(EngineError, match="sequence 0"):
        list(model.logits([ids], n_threads=1))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(GgufError, match=r"x\.gguf, byte 4: .*rule: version"):
        NativeModel(path)


def test_a_missing_adapter_is_refused(starter_path: Path, tmp_path: Path):
    from llamune.engine import AdapterFile

    with pytest.raises(GgufError, match=r"no\.gguf"):
        NativeModel(starter_path, adapters=[AdapterFile(path=tmp_path / "no.gguf")])
