"""What another precision costs on text: nothing against itself, more the fewer bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.convert import file_type, plan_quantize, quantize
from llamune.errors import LlamuneError
from llamune.evaluate import sample_text, text_quality, windows
from llamune.gguf import ModelFile
from tests.tiny import tiny_model


def test_windows_begin_as_the_model_expects_and_lose_nothing_but_a_rest() -> None:
    ids = list(range(10, 310))
    plain = windows(ids, bos_id=None)
    assert [len(window) for window in plain] == [128, 128, 44]
    assert [one for window in plain for one in window] == ids
    begun = windows(ids, bos_id=1)
    assert all(window[0] == 1 and len(window) <= 128 for window in begun)
    assert [one for window in begun for one in window[1:]] == ids
    assert windows(ids[:130], bos_id=None) == [ids[:128]]  # two tokens say nothing
    with pytest.raises(LlamuneError, match="the text has 31 tokens"):
        windows(ids[:31], bos_id=None)


def test_the_sample_text_is_prose() -> None:
    assert 900 < len(sample_text().split()) < 1500


def test_fewer_bits_cost_more_and_the_same_file_nothing(tmp_path: Path) -> None:
    reference = tiny_model(tmp_path, "llama")
    with ModelFile.open(reference) as file:
        n_vocab = file.tensors["token_embd.weight"].n_rows
        for name in ("q8_0", "q4_0"):
            quantize(plan_quantize(file, file_type(name)), tmp_path / f"{name}.gguf")
    sequences = [[(7 * i + 3 * k) % n_vocab for i in range(40)] for k in range(3)]
    seen: list[int] = []
    same = text_quality([reference], [reference], sequences, n_threads=1, advance=seen.append)
    assert seen == [40, 40, 40]
    assert same.n_tokens == 3 * 39
    assert same.agreement.n_positions == 3 * 40
    assert (same.change, same.change_error, same.agreement.mean_kl) == (0, 0, 0)
    assert same.agreement.top1 == 1
    eight, four = (
        text_quality([reference], [tmp_path / f"{name}.gguf"], sequences, n_threads=1)
        for name in ("q8_0", "q4_0")
    )
    assert 0 < eight.agreement.mean_kl < four.agreement.mean_kl
    assert eight.reference_loss == same.reference_loss
    assert eight.change == pytest.approx(eight.loss - eight.reference_loss)


def test_quantize_with_a_report_prints_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, out = tiny_model(tmp_path, "llama"), tmp_path / "new.gguf"
    command = ["quantize", str(reference), str(out), "--type", "q8_0", "--report", "--json"]
    assert run([*command, "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == found["quality"]["b"]["bytes"] == out.stat().st_size
    assert found["quality"]["a"]["bytes"] == reference.stat().st_size
    assert 0 < found["quality"]["mean_kl"] < 1
    assert set(found["quality"]["relative_error"]) >= {"token embedding", "block 0"}
