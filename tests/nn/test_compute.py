"""The compute type is measured, remembered, and never one that overflows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llamune.arch import Family, describe
from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.nn import best_device, choose_compute, compute
from llamune.runs import machine, measuring
from tests.tiny import tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    path: Path = tiny_model(tmp_path_factory.mktemp("tiny"))
    return describe(ModelFile.open(path))


@pytest.fixture(autouse=True)
def left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other program disturbs a trial, and none is remembered from another test."""
    monkeypatch.setattr(compute, "disturbed_trials", {})
    monkeypatch.setattr(measuring.Others, "disturbed", lambda _self, _threads: False)


def speeds(table: dict[torch.dtype, float]):  # type: ignore[no-untyped-def]
    """Return a stand-in for the timing that gives these GFLOP/s."""
    return lambda weight, n_tokens, *, seconds: table[weight.dtype]


def test_the_faster_type_is_taken(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_bf16 = speeds({torch.float32: 100.0, torch.bfloat16: 400.0})
    monkeypatch.setattr(compute, "timed", fast_bf16)
    found = choose_compute(family, "cpu", n_threads=1)
    assert (found.torch_dtype, found.n_threads, found.gflops) == (torch.bfloat16, 1, 400.0)


def test_slow_bf16_is_given_up_after_a_few_rows(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[torch.dtype, int]] = []

    def timed(weight: torch.Tensor, n_tokens: int, *, seconds: float) -> float:
        asked.append((weight.dtype, n_tokens))
        return 180.0 if weight.dtype is torch.float32 else 1.0

    monkeypatch.setattr(compute, "timed", timed)
    assert choose_compute(family, "cpu", n_threads=1).dtype == "float32"
    assert (torch.bfloat16, compute.N_TOKENS) not in asked
    assert (torch.bfloat16, compute.FIRST_TOKENS) in asked


def test_what_was_measured_is_kept(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "timed", speeds({torch.float32: 5.0, torch.bfloat16: 1.0}))
    first = choose_compute(family, "cpu", n_threads=1)
    monkeypatch.setattr(compute, "timed", speeds({torch.float32: 1.0, torch.bfloat16: 50.0}))
    assert choose_compute(family, "cpu", n_threads=1) == first


def test_a_trial_beside_busy_programs_serves_this_process_alone(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring.Others, "disturbed", lambda _self, _threads: True)
    monkeypatch.setattr(compute, "timed", speeds({torch.float32: 5.0, torch.bfloat16: 1.0}))
    first = choose_compute(family, "cpu", n_threads=1)
    assert not first.kept
    assert not machine.facts("compute")
    monkeypatch.setattr(compute, "timed", speeds({torch.float32: 1.0, torch.bfloat16: 50.0}))
    assert choose_compute(family, "cpu", n_threads=1) == first  # it does not change its mind
    assert choose_compute(family, "cpu", n_threads=1, again=True).dtype == "bfloat16"


def test_a_type_that_the_device_lacks_counts_as_none(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(weight: torch.Tensor, n_tokens: int, *, seconds: float) -> float:
        if weight.dtype is torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return 10.0

    monkeypatch.setattr(compute, "timed", timed)
    assert choose_compute(family, "cpu", n_threads=1).dtype == "float32"


def test_f16_is_for_gpus_and_never_for_gemma(family: Family) -> None:
    assert torch.float16 not in compute.candidates(family, CPU)
    gpu = torch.device("cuda")
    assert torch.float16 in compute.candidates(family, gpu)
    assert torch.float16 not in compute.candidates(replace(family, bf16_only=True), gpu)


def test_a_real_trial_leaves_the_threads_as_they_were(family: Family) -> None:
    before = torch.get_num_threads()
    found = choose_compute(family, "cpu")
    assert found.gflops > 0
    assert torch.get_num_threads() == before


def test_the_device_is_the_one_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMUNE_DEVICE", "cpu")
    assert best_device() == "cpu"
    monkeypatch.setenv("LLAMUNE_DEVICE", "abacus")
    with pytest.raises(UnsupportedError, match="device 'abacus' is not here"):
        best_device()
