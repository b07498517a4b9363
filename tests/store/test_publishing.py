from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from llamune.gguf import GgufError
from llamune.store import (
    CopyNeededError,
    DamagedError,
    ExistsError,
    ModelName,
    NewLayer,
    Store,
    bytes_to_copy,
    library,
    publish,
    publish_adapter,
    publish_model,
    resolve,
)
from llamune.store import sharing as ways
from tests.store.conftest import put_model, write_tiny_gguf

pytestmark = pytest.mark.usefixtures("without_system_stores")


def base_in(store: Store) -> None:
    put_model(
        store.root,
        "registry.ollama.ai/library/base/9b",
        extra=(("adapter", b"old adapter"), ("template", b"{{ .Prompt }}"), ("license", b"MIT")),
        config={"renderer": "gemma"},
    )


def file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_an_adapter_is_published_beside_its_base_without_a_second_copy(
    ollama: Store, tmp_path: Path
) -> None:
    base_in(ollama)
    base = resolve("base:9b")
    before = base.path.stat()
    assert bytes_to_copy(base) == 0
    tuned = publish_adapter(
        "mine:9b", base, file(tmp_path, "a.gguf", b"new adapter"), {"llamune.run": "mine:9b#1"}
    )
    assert tuned.store == library()
    assert tuned.path.samefile(base.path)
    assert tuned.path.stat().st_mode == before.st_mode
    assert [adapter.path.read_bytes() for adapter in tuned.adapters] == [b"new adapter"]
    assert (tuned.template, tuned.licenses, tuned.renderer) == ("{{ .Prompt }}", ("MIT",), "gemma")
    assert tuned.annotations == {"llamune.run": "mine:9b#1", "llamune.base.digest": base.digest}
    assert resolve("MINE:9B").name == tuned.name


def test_what_we_write_is_what_the_format_says(ollama: Store, tmp_path: Path) -> None:
    base_in(ollama)
    publish_adapter("mine", resolve("base:9b"), file(tmp_path, "a", b"adapter"), {"note": "猫"})
    root = library().root
    path = root / "manifests/registry.ollama.ai/library/mine/latest"
    manifest = json.loads(path.read_text())
    assert path.read_text().endswith("}\n")
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    kinds = [entry["mediaType"].rpartition(".")[2] for entry in manifest["layers"]]
    assert kinds == ["model", "template", "license", "adapter"]
    assert manifest["layers"][0]["from"] == "base:9b"
    for entry in [manifest["config"], *manifest["layers"]]:
        blob = root / "blobs" / entry["digest"].replace(":", "-")
        assert f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}" == entry["digest"]
        assert blob.stat().st_size == entry["size"]
        assert blob.stat().st_mode & 0o777 == 0o644
    assert len(list((root / "blobs").iterdir())) == 5


def test_a_whole_model_takes_along_what_its_base_says(ollama: Store, tmp_path: Path) -> None:
    base_in(ollama)
    path = write_tiny_gguf(tmp_path / "m.gguf", "merged")
    merged = publish_model(
        "merged",
        path,
        resolve("base:9b"),
        config={"file_type": "Q8_0"},
    )
    assert merged.path.read_bytes() == path.read_bytes()
    assert merged.adapters == ()
    assert (merged.template, merged.licenses, merged.renderer) == (
        "{{ .Prompt }}",
        ("MIT",),
        "gemma",
    )
    assert merged.config["file_type"] == "Q8_0"


def test_a_file_outside_a_store_is_never_hard_linked(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", "mine")
    before = path.read_bytes()
    model = publish_model("mine", path)
    assert not model.path.samefile(path)
    path.write_bytes(b"changed")
    assert resolve("mine").path.read_bytes() == before
    with pytest.raises(GgufError):
        publish_model("not-a-model", path)
    assert [str(name) for name in library().names()] == ["mine:latest"]


def test_a_taken_name_is_replaced_only_when_asked(tmp_path: Path) -> None:
    second = write_tiny_gguf(tmp_path / "2", "second")
    publish_model("Mine", write_tiny_gguf(tmp_path / "1", "first"))
    with pytest.raises(ExistsError, match="Mine:latest: exists already in library"):
        publish_model("mine", second)
    publish_model("mine", second, replace=True)
    assert [str(name) for name in library().names()] == ["Mine:latest"]
    assert resolve("mine").path.read_bytes() == second.read_bytes()


def test_copies_are_agreed_to_or_references_kept(
    ollama: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways.os, "link", fail_as_across_devices)
    monkeypatch.setattr(ways, "clone_on_linux", fail_as_across_devices)
    monkeypatch.setattr(ways, "clone_on_macos", fail_as_across_devices)
    base_in(ollama)
    base = resolve("base:9b")
    adapter = file(tmp_path, "a", b"adapter")
    assert bytes_to_copy(base) == base.size == 20
    with pytest.raises(CopyNeededError, match="20 bytes can be neither linked nor cloned"):
        publish_adapter("mine", base, adapter, sharing="link")
    assert library().names() == []
    referring = publish_adapter("mine", base, adapter, sharing="reference")
    assert referring.path.is_symlink() and referring.path.samefile(base.path)
    copied = publish_adapter("copied", base, adapter, sharing="copy")
    assert copied.path == referring.path  # a blob that is there, even by reference, is used
    base.path.unlink()
    with pytest.raises(DamagedError, match="the file it refers to is gone"):
        resolve("mine")


def fail_as_across_devices(*_: object) -> None:
    raise OSError(18, "Invalid cross-device link")


def test_a_layer_that_is_not_in_the_store_is_refused() -> None:
    store = library()
    model = publish("a", [NewLayer("application/vnd.ollama.image.model", b"x")], config={})
    assert model.manifest is not None
    lost = model.manifest.layers[0]
    model.path.unlink()
    with pytest.raises(DamagedError, match="missing"):
        publish("b", [lost], config={})
    assert store.names() == [ModelName("a")]


def test_a_blob_whose_bytes_changed_is_not_copied_on(
    ollama: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways.os, "link", fail_as_across_devices)
    monkeypatch.setattr(ways, "clone_on_linux", fail_as_across_devices)
    monkeypatch.setattr(ways, "clone_on_macos", fail_as_across_devices)
    base_in(ollama)
    base = resolve("base:9b")
    base.path.write_bytes(b"another twenty bytes")
    with pytest.raises(DamagedError, match="its bytes do not have the digest"):
        publish_adapter("mine", base, file(tmp_path, "a", b"adapter"))
    assert list(library().blobs.iterdir()) == []


def test_bytes_that_the_library_has_already_are_not_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "clone_on_linux", fail_as_across_devices)
    monkeypatch.setattr(ways, "clone_on_macos", fail_as_across_devices)
    store = library()
    path = file(tmp_path, "x", b"the same bytes")
    digest = store.add_blob(path)
    read: list[int] = []
    assert store.add_blob(path, sharing="link", advance=read.append) == digest
    assert sum(read) == 14
