from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamune.errors import LlamuneError, UnsupportedError
from llamune.store import (
    DamagedError,
    Store,
    StoreError,
    UnknownModelError,
    library,
    resolve,
    search_path,
    starter,
)
from llamune.store import publish_starter as take_starter
from tests.store.conftest import put_model

pytestmark = pytest.mark.usefixtures("without_system_stores")


def test_a_model_of_ollamas_store_comes_with_all_its_layers(ollama: Store) -> None:
    put_model(
        ollama.root,
        "registry.ollama.ai/library/tiny/1b",
        extra=(
            ("adapter", b"GGUF of an adapter"),
            ("template", b"{{ .Prompt }}"),
            ("system", "猫です。".encode()),
            ("params", b'{"stop":["<end>"],"temperature":0.5}'),
            ("license", b"first"),
            ("license", b"second"),
            ("messages", b'[{"role":"user","content":"hello"}]'),
        ),
        config={"renderer": "gemma", "parser": "gemma"},
    )
    model = resolve("tiny:1b")
    assert model.path.read_bytes() == b"GGUF of a tiny model"
    assert model.size == 20
    assert str(model) == "tiny:1b"
    assert [adapter.path.read_bytes() for adapter in model.adapters] == [b"GGUF of an adapter"]
    assert model.template == "{{ .Prompt }}"
    assert model.system == "猫です。"
    assert model.parameters == {"stop": ["<end>"], "temperature": 0.5}
    assert model.licenses == ("first", "second")
    assert model.messages == ({"role": "user", "content": "hello"},)
    assert (model.renderer, model.parser) == ("gemma", "gemma")
    assert model.digest is not None and model.path.name == model.digest.replace(":", "-")


def test_lookup_ignores_case_but_an_exact_match_wins(ollama: Store) -> None:
    put_model(ollama.root, "registry.ollama.ai/library/Tiny/1B", weights=b"upper")
    assert resolve("tiny:1b").path.read_bytes() == b"upper"
    put_model(ollama.root, "registry.ollama.ai/library/tiny/1b", weights=b"lower")
    assert resolve("tiny:1b").path.read_bytes() == b"lower"
    assert resolve("Tiny:1B").path.read_bytes() == b"upper"


def test_our_library_comes_before_ollamas_store_and_the_choice_is_said(ollama: Store) -> None:
    put_model(ollama.root, weights=b"theirs")
    put_model(library().root, weights=b"ours")
    model = resolve("tiny")
    assert model.path.read_bytes() == b"ours"
    assert str(ollama.root) in model.notes[0]


def test_a_name_wins_over_a_folder_and_the_choice_is_said(
    ollama: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put_model(ollama.root)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "x.gguf").write_bytes(b"in the folder")
    assert "./tiny" in resolve("tiny").notes[0]
    assert resolve("./tiny").path.read_bytes() == b"in the folder"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "y.gguf").write_bytes(b"y")
    assert resolve("other").path.name == "y.gguf"


def test_unknown_names_hint_at_the_nearest(ollama: Store) -> None:
    put_model(ollama.root, "registry.ollama.ai/library/gemma2/9b")
    with pytest.raises(UnknownModelError) as caught:
        resolve("gema2:9b")
    assert "gemma2:9b" in str(caught.value.hint)
    with pytest.raises(UnknownModelError) as caught:
        resolve("starter")
    assert caught.value.hint == "fetch it first: llamune pull starter"


@pytest.mark.parametrize("ref", ["", "  ", "a\0b", "./none.gguf", "/none", "a/b/c/d/e", "x" * 5000])
def test_references_that_mean_nothing_are_refused(ref: str) -> None:
    with pytest.raises(LlamuneError):
        resolve(ref)


def test_split_files_are_one_model(tmp_path: Path) -> None:
    shards = [tmp_path / f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for shard in shards[:2]:
        shard.write_bytes(b"x")
    with pytest.raises(StoreError, match="1 of 3 shards missing, first big-00003"):
        resolve(str(shards[0]))
    shards[2].write_bytes(b"x")
    assert resolve(str(shards[1])).paths == tuple(shards)
    assert resolve(str(tmp_path)).paths == tuple(shards)


def test_an_absurd_shard_count_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "big-00001-of-99999.gguf"
    path.write_bytes(b"x")
    with pytest.raises(LlamuneError, match="shard number in the name is impossible"):
        resolve(str(path))


def test_folders_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="no GGUF"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="transformers model"):
        resolve(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="PEFT adapter"):
        resolve(str(tmp_path))
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(StoreError, match=r"holds 2 models: a\.gguf, b\.gguf"):
        resolve(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_special_files_are_refused_without_waiting(tmp_path: Path, ollama: Store) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(StoreError, match="not a regular file"):
        resolve(str(tmp_path / "pipe.gguf"))
    manifest = put_model(ollama.root)
    blob = resolve("tiny").path
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(DamagedError, match="not a regular file"):
        resolve("tiny")
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(UnknownModelError):
        resolve("tiny")


def test_models_without_weights_here_are_refused_by_name(ollama: Store) -> None:
    put_model(ollama.root, config={"remote_host": "ollama.com:443"}, changes={"layers": []})
    with pytest.raises(UnsupportedError, match=r"runs on ollama\.com"):
        resolve("tiny")
    put_model(ollama.root, config={"model_format": "safetensors"}, changes={"layers": []})
    with pytest.raises(UnsupportedError, match="safetensors"):
        resolve("tiny")


def test_a_blob_of_the_wrong_size_is_named(ollama: Store) -> None:
    put_model(ollama.root)
    blob = resolve("tiny").path
    blob.write_bytes(b"cut")
    with pytest.raises(DamagedError, match=f"{blob.name}: 3 bytes, the manifest says 20"):
        resolve("tiny")
    blob.unlink()
    with pytest.raises(DamagedError, match="missing"):
        resolve("tiny")


def test_stores_are_searched_in_order_and_each_once(
    ollama: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [store.label for store in search_path()][:3] == [
        "library",
        "OLLAMA_MODELS",
        "~/.ollama/models",
    ]
    monkeypatch.setenv("OLLAMA_MODELS", f' "{home}/.ollama/models" ')
    assert [store.root for store in search_path()].count(home / ".ollama" / "models") == 1


def test_the_starter_is_linked_into_the_library(starter_path: Path) -> None:
    model = take_starter(starter_path, starter.license_text())
    assert resolve("starter").digest == model.digest == f"sha256:{starter.GGUF_SHA256}"
    assert "Apache License" in model.licenses[0]
    take_starter(starter_path, starter.license_text())
    assert len(list(library().blobs.iterdir())) == 3
