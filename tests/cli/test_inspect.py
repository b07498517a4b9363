"""`inspect`, `size`, `diff`, `neighbors`, `quantize`: exact output, one line for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from llamune.adapter import LoraAdapter, LoraPair, write_adapter
from llamune.cli import _main
from llamune.gguf import ModelFile
from tests.gguf.hostile import mutations

ESCAPE = "\x1b"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert _main.run([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    return json.loads(run(capsys, *arguments, "--json"))


def test_inspect_adds_up(capsys: pytest.CaptureFixture[str], starter_path: Path) -> None:
    text = run(capsys, "inspect", starter_path)
    assert "blocks 0-29 (30 alike)" in text
    assert "total" in text
    assert "98,362,432" in text
    assert ESCAPE not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    found = run_json(capsys, "inspect", starter_path, "--blocks", "--keys")
    sections = found["sections"]
    assert found["schema"] == 1
    assert sum(section["bytes"] for section in sections) == 98_362_432 == found["size_bytes"]
    for section in sections:
        assert sum(section["parts"].values()) == section["bytes"]
    assert found["facts"]["n_parameters"] == 134_515_008
    assert len(found["tensors"]) == 272
    assert {"key": "llama.block_count", "type": "u32", "value": 30} in found["metadata"]


def test_inspect_every_block_and_key(
    capsys: pytest.CaptureFixture[str], starter_path: Path
) -> None:
    text = run(capsys, "inspect", starter_path, "--blocks", "--keys")
    assert "blk.29.ffn_down.weight" in text
    assert "general.quantization_version" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_inspect_one_tensor(capsys: pytest.CaptureFixture[str], starter_path: Path) -> None:
    text = run(capsys, "inspect", starter_path, "--tensor", "blk.0.attn_q.weight")
    assert "576 x 576 = 331,776 weights" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "####" in text
    found = run_json(capsys, "inspect", starter_path, "--tensor", "blk.0.attn_q.weight")
    assert sum(found["histogram"]["counts"]) == 331_776


def test_size_says_why(capsys: pytest.CaptureFixture[str], starter_path: Path) -> None:
    text = run(capsys, "size", starter_path)
    assert "98,362,432 bytes" in text
    assert "metadata and tokenizer" in text
    found = run_json(capsys, "size", starter_path)
    as_it_is = next(entry for entry in found["as"] if entry["type"] == "Q4_1")
    assert as_it_is["bytes"] == found["size_bytes"]  # the very recipe that it was made with
    assert "Q1_0" in found["refused"]


def test_quantize_and_diff(
    capsys: pytest.CaptureFixture[str], starter_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "q8.gguf"
    planned = run_json(capsys, "quantize", starter_path, "--type", "q8_0", "--dry-run")
    assert sum(planned["sections"].values()) == planned["bytes"]
    assert _main.run(["quantize", str(starter_path), str(out), "--type", "q8_0"]) == 2
    assert "hint: start from the 16- or 32-bit model" in capsys.readouterr().err
    assert not out.exists()
    text = run(
        capsys, "quantize", starter_path, out, "--type", "q8_0", "--requantize", "--threads", 1
    )
    assert text == f"{out}\n"
    assert out.stat().st_size == planned["bytes"]
    assert _main.run(["quantize", str(starter_path), str(out), "--type", "copy"]) == 2
    assert "exists already" in capsys.readouterr().err
    text = run(capsys, "diff", starter_path, out)
    assert "general.file_type  3  7" in text
    assert "Q4_1>Q8_0 +3.5 bit" in text
    found = run_json(capsys, "diff", starter_path, out)
    assert {change["type_b"] for change in found["tensors"]} == {"Q8_0"}
    assert "same metadata, same tensors" in run(capsys, "diff", out, out)


def test_diff_and_inspect_of_an_adapter(
    capsys: pytest.CaptureFixture[str], starter_path: Path, tmp_path: Path
) -> None:
    chance = np.random.default_rng(0)
    pair = LoraPair(
        a=chance.standard_normal((4, 576)).astype(np.float32),
        b=chance.standard_normal((576, 4)).astype(np.float32),
        scale=0.5,
    )
    path = tmp_path / "adapter.gguf"
    adapter = LoraAdapter(path=path, pairs={"blk.3.attn_q.weight": pair})
    with ModelFile.open(starter_path) as base:
        write_adapter(adapter, base, path, base_digest=None)
        before = base.floats("blk.3.attn_q.weight")
    text = run(capsys, "diff", starter_path, path)
    assert "rank 4, 4,608 weights" in text
    assert "block 3" in text
    (found,) = run_json(capsys, "diff", starter_path, path)
    wanted = np.linalg.norm(pair.change()) / np.linalg.norm(before)
    assert found["modules"] == [
        {"name": "attn_q", "relative_change": pytest.approx(wanted, rel=1e-5)}
    ]
    assert "LoRA, rank 4" in run(capsys, "inspect", path)


def test_neighbors(capsys: pytest.CaptureFixture[str], starter_path: Path) -> None:
    text = run(capsys, "neighbors", starter_path, "cat", "猫", "--count", 3)
    assert "猫: 3 tokens" in text
    many = run(capsys, "neighbors", starter_path, "antidisestablishmentarianism 自動車")
    assert max(len(line) for line in many.splitlines()) <= 80
    found = run_json(capsys, "neighbors", starter_path, "cat", "dog", "--count", 3)
    assert found[0]["cosine_to"]["dog"] == pytest.approx(0.561, abs=1e-3)
    assert len(found[1]["nearest"]) == 3


@pytest.mark.parametrize("command", ["inspect", "size", "diff", "neighbors", "quantize"])
@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 16])
def test_bad_input_gives_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, content: bytes | None
) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    rest = {"diff": [str(path)], "neighbors": ["cat"], "quantize": [str(tmp_path / "out")]}
    assert _main.run([command, str(path), *rest.get(command, [])]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert str(path) in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--type", "q9"],
        ["--tensor-type", "ffn"],
        ["--tensor-type", "(=q8_0"],
        ["--tensor-type", "ffn=q9"],
        ["--imatrix", "none.gguf"],
        ["--output-type", "zip"],
    ],
)
def test_bad_options_give_one_line(
    capsys: pytest.CaptureFixture[str], starter_path: Path, arguments: list[str]
) -> None:
    assert _main.run(["quantize", str(starter_path), "--dry-run", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_mutated_files_never_show_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = typer.main.get_command(_main.build())
    monkeypatch.setattr(_main, "build", lambda _only: program)  # building it takes most of the time
    path = tmp_path / "mutated.gguf"
    seen: set[int] = set()
    for turn, data in enumerate(mutations(500, seed=77)):
        path.write_bytes(data)
        command = ("inspect", "size")[turn % 2]
        code = _main.run([command, str(path)])
        said = capsys.readouterr()
        seen.add(code)
        assert code in (0, 2), f"file {turn}: {said.err}"
        assert "Traceback" not in said.err
        assert (code == 0) == ("error: " not in said.err)
        assert ESCAPE not in said.out + said.err
    assert seen == {0, 2}


def test_inspect_starts_without_heavy_libraries(starter_path: Path) -> None:
    code = (
        "import sys; from llamune.cli import _main;"
        f"assert _main.run(['inspect', {str(starter_path)!r}]) == 0;"
        "print([name for name in ('torch', 'transformers', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
