"""`llamune publish` from end to end, on the starter with a small adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguf
from llamune.cli._main import run
from llamune.gguf import ModelFile
from llamune.store import (
    Store,
    library,
    media_types,
    publish_adapter,
    publish_starter,
    resolve,
    starter,
)
from tests.store.ollama_server import OllamaStandIn

pytestmark = pytest.mark.usefixtures("without_system_stores")
CHANGED = "blk.0.attn_output.weight"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Write a LoRA of rank 2 on one weight, with another writer than ours."""
    random = np.random.default_rng(3)
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    for suffix, shape in (("lora_a", (2, 576)), ("lora_b", (576, 2))):
        values = random.normal(size=shape).astype(np.float32) * 0.05
        writer.add_tensor(f"{CHANGED}.{suffix}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "adapter.gguf"


@pytest.fixture
def tuned(starter_path: Path, adapter: Path) -> None:
    publish_starter(starter_path, starter.license_text())
    publish_adapter("tuned", resolve("starter"), adapter)


@pytest.mark.usefixtures("tuned")
def test_a_path_gets_a_merged_file_that_keeps_the_change(
    starter_path: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert run(["publish", "tuned", "--to", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(out)
    assert "adapter is merged" in shown.err
    pair = {tensor.name: tensor.data for tensor in gguf.GGUFReader(adapter).tensors}
    change = pair[f"{CHANGED}.lora_b"] @ pair[f"{CHANGED}.lora_a"]
    untouched = "blk.1.attn_output.weight"
    with ModelFile.open(starter_path) as old, ModelFile.open(out) as new:
        before, after = old.floats(CHANGED), new.floats(CHANGED)
        assert np.array_equal(old.packed(untouched), new.packed(untouched))
    assert np.abs(after - (before + change)).max() < 0.01 * np.abs(before).max() + 1e-3
    assert np.abs(after - before).max() > 0.1 * np.abs(change).max()
    assert run(["publish", "tuned", "--to", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.usefixtures("tuned")
def test_ollama_gets_the_adapter_or_a_merged_file_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for version, kinds in (("0.33.0", ["model", "adapter"]), ("0.35.2", ["model"])):
        server = OllamaStandIn(tmp_path / version, version)
        monkeypatch.setenv("OLLAMA_HOST", server.address)
        assert run(["publish", "tuned", "--to", "ollama", "--as", "me/mine:q"]) == 0
        assert capsys.readouterr().out.strip() == "me/mine:q"
        store = Store(server.root, version)
        layers = store.manifest(store.names()[0]).layers
        found = [layer.media_type.rpartition(".")[2] for layer in layers]
        assert found == [*kinds, "license"]
        server.close()
    assert not list((library().root.parent).glob(".merge-*"))


@pytest.mark.usefixtures("tuned")
def test_the_library_keeps_the_adapter_beside_its_base(
    capsys: pytest.CaptureFixture[str], starter_path: Path, tmp_path: Path
) -> None:
    assert run(["publish", "tuned", "--to", "library", "--as", "other"]) == 0
    assert capsys.readouterr().out.strip() == "other:latest"
    other = resolve("other")
    assert other.path.samefile(resolve("starter").path)
    assert other.manifest is not None
    assert len(other.manifest.of_type(media_types.ADAPTER)) == 1
    assert run(["publish", "tuned", "--to", "library", "--as", "other"]) == 2
    assert run(["publish", str(starter_path), "--to", "library"]) == 2
    assert "no name of its own" in capsys.readouterr().err
    assert run(["publish", "nobody", "--to", str(tmp_path / "x")]) == 2
    assert run(["publish", "nobody#3", "--to", "ollama"]) == 2


@pytest.mark.usefixtures("tuned")
def test_a_file_is_copied_into_the_library_only_when_agreed(
    starter_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(starter_path.read_bytes())
    path.write_bytes(path.read_bytes())
    code = run(["cp", str(path), "mine"])
    if code == 2:  # a file system without clones
        assert "--no-copy" in capsys.readouterr().err
        assert run(["cp", str(path), "mine", "--no-copy"]) == 0
    assert resolve("mine").size == path.stat().st_size
    assert run(["cp", str(path), "mine", "--copy", "--no-copy", "--replace"]) == 2
