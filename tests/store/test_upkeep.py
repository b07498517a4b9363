from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.store import (
    NewLayer,
    Store,
    StoreError,
    UnknownModelError,
    collect_garbage,
    copy_model,
    find_garbage,
    library,
    list_models,
    publish,
    remove_model,
    resolve,
    search_path,
    take_in,
    verify_models,
)
from llamune.store.names import ModelName
from tests.store.conftest import put_blob, put_model

pytestmark = pytest.mark.usefixtures("without_system_stores")
MODEL = "application/vnd.ollama.image.model"
TEMPLATE = "application/vnd.ollama.image.template"


def tiny(name: str, weights: bytes = b"weights", template: bytes = b"template") -> None:
    publish(name, [NewLayer(MODEL, weights), NewLayer(TEMPLATE, template)], config={"n": name})


def blobs() -> set[bytes]:
    return {path.read_bytes() for path in library().blobs.iterdir()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_is_found_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    tiny("a")
    tiny("b", weights=b"other weights")
    assert run(["verify", "--all"]) == 0
    flip(resolve("b").path)
    capsys.readouterr()
    assert run(["verify", "--all"]) == 1
    out = capsys.readouterr().out
    assert "b:latest" in out and resolve("b").path.name in out and "a:latest" not in out
    assert run(["verify", "a"]) == 0
    assert run(["verify", "b", "--json"]) == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [fault["name"] for fault in faults] == ["b:latest"]


def test_lost_missing_and_cut_blobs_are_named(tmp_path: Path) -> None:
    tiny("a")
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"refer to me")
    publish("b", [NewLayer(MODEL, outside, sharing="reference")], config={})
    publish("c", [NewLayer(MODEL, b"gone")], config={})
    store = library()
    resolve("a").path.write_bytes(b"w")
    resolve("c").path.unlink()
    if resolve("b").path.is_symlink():  # a file system with clones keeps the bytes instead
        outside.unlink()
    problems = [fault.problem for fault in verify_models([(store, name) for name in store.names()])]
    assert problems[0] == "1 bytes, the manifest says 7"
    assert problems[-1] == "blob missing"
    if len(problems) == 3:
        assert problems[1] == f"the file it refers to is gone: {outside}"


def test_hard_links_are_read_once(ollama: Store) -> None:
    put_model(ollama.root)
    copy_model(resolve("tiny"), "mine")
    read: list[int] = []
    targets = [(store, name) for store in search_path() for name in store.names()]
    assert len(targets) == 2
    assert verify_models(targets, advance=read.append) == []
    assert sum(read) == resolve("mine").manifest.size  # type: ignore[union-attr]  # it has one


def test_removing_a_model_keeps_what_others_need() -> None:
    tiny("a", weights=b"shared", template=b"of a")
    tiny("b", weights=b"shared", template=b"of b")
    removed = remove_model(library(), ModelName("A"))
    assert b"shared" in blobs() and b"of a" not in blobs() and b"of b" in blobs()
    assert removed.bytes_freed == len(b"of a") + len(b'{"n":"a"}\n')
    remove_model(library(), ModelName("b"))
    assert blobs() == set()
    assert list(library().manifests.iterdir()) == []
    with pytest.raises(UnknownModelError):
        remove_model(library(), ModelName("b"))


def test_models_of_other_stores_are_never_removed(
    ollama: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    put_model(ollama.root)
    tiny("mine")
    assert run(["rm", "mine", "tiny"]) == 2
    assert "ollama rm tiny" in capsys.readouterr().err
    assert len(list_models([library(), ollama])) == 2


def test_cleaning_up_is_dry_unless_asked_and_spares_the_young(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny("a")
    store = library()
    orphan = store.blob_path(put_blob(store.root, b"orphan"))
    part = store.blobs / "sha256-abc.part"
    part.write_bytes(b"half")
    assert find_garbage(store).pieces == ()
    for path in (*store.blobs.iterdir(), *store.root.glob(".*")):
        os.utime(path, (time.time() - 7200,) * 2)
    assert {piece.path for piece in find_garbage(store).pieces} == {orphan, part}
    assert run(["gc"]) == 0
    assert orphan.exists()
    assert run(["gc", "--delete", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("{\n")[2].join(["{", ""]))["deleted"]
    assert not orphan.exists() and not part.exists()
    assert verify_models([(store, ModelName("a"))]) == []


def test_blobs_of_an_unknown_manifest_are_kept_even_behind_a_manifest_that_is_a_blob() -> None:
    store = library()
    tiny("a")
    weights = put_blob(store.root, b"weights of a child")
    child = put_blob(store.root, json.dumps({"layers": [{"digest": weights}]}).encode())
    path = store.manifests / "registry.ollama.ai/library/list/latest"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.ollama.manifest.list.v2+json",
                "manifests": [{"digest": child, "runner": "mlx"}],
            }
        )
    )
    orphan = store.blob_path(put_blob(store.root, b"orphan"))
    garbage = collect_garbage(store, grace_seconds=-1)
    assert [piece.path for piece in garbage.pieces] == [orphan]
    assert "unsupported manifest kind" in garbage.unknown[0]
    remove_model(store, ModelName("a"))
    assert store.has(weights) and store.has(child)
    listed = {str(model.name): model for model in list_models([store])}
    assert "unsupported manifest kind" in str(listed["list:latest"].problem)


def test_nothing_is_cleaned_up_beside_a_damaged_manifest() -> None:
    store = library()
    tiny("a")
    tiny("b")
    path = store.manifest_path(ModelName("b"))
    path.write_bytes(path.read_bytes()[:-40])
    put_blob(store.root, b"orphan")
    with pytest.raises(StoreError, match="damaged manifest"):
        collect_garbage(store, grace_seconds=-1)
    assert remove_model(store, ModelName("a")).kept
    assert b"weights" in blobs()
    remove_model(store, ModelName("b"))
    collect_garbage(store, grace_seconds=-1)
    assert blobs() == set()


def test_a_copy_has_the_same_manifest_and_shares_blobs(ollama: Store) -> None:
    put_model(ollama.root, extra=(("adapter", b"adapter"), ("license", b"MIT")))
    source = resolve("tiny")
    copied = copy_model(source, "me/copy:1")
    assert copied.manifest == source.manifest
    assert copied.path.samefile(source.path)
    again = copy_model(copied, "me/copy:2")
    assert again.store == library() and again.manifest == source.manifest


def test_a_file_is_taken_into_the_library_and_cannot_change_any_more(
    starter_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "My model (v1).gguf"
    os.link(starter_path, path)
    taken = take_in(resolve(str(path)))
    assert str(taken.name).startswith("imported/My-model-v1-:b179c9523d0e")
    assert not taken.path.samefile(path)
    assert taken.config["file_type"] == "Q4_1" and taken.config["model_type"] == "134.52M"
    assert take_in(taken) is taken
    assert run(["models"]) == 0


def test_listing_says_what_each_model_is(
    ollama: Store, starter_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models"]) == 0
    assert "llamune pull starter" in capsys.readouterr().err
    put_model(ollama.root, extra=(("adapter", b"adapter"),))
    put_model(ollama.root, "registry.ollama.ai/library/cloud/latest", config={"remote_host": "x"})
    put_model(
        ollama.root,
        "registry.ollama.ai/library/unsaid/latest",
        weights=starter_path.read_bytes(),
        config={"file_type": "", "model_type": "", "model_family": ""},
    )
    broken = put_model(ollama.root, "registry.ollama.ai/library/broken/latest")
    broken.write_text("{")
    assert run(["models", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    kinds = {name: entry["kind"] for name, entry in listed.items()}
    assert kinds == {
        "tiny:latest": "adapter",
        "cloud:latest": "cloud",
        "unsaid:latest": "model",
        "broken:latest": "damaged",
    }
    assert listed["unsaid:latest"]["file_type"] == "Q4_1"
    assert listed["unsaid:latest"]["license"] == "Apache-2.0"
    assert "not readable as JSON" in listed["broken:latest"]["problem"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_store_that_may_not_be_read_is_named(
    ollama: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_model(ollama.root)
    if os.geteuid() == 0:  # root may read everything

        def refuse(folder: Path) -> list[Path]:
            if folder == ollama.manifests:
                raise PermissionError(13, "Permission denied", str(folder))
            return []

        monkeypatch.setattr("llamune.store.stores.manifest_files", refuse)
        monkeypatch.setattr("llamune.store.stores.is_file", lambda path: False)
    else:
        ollama.manifests.chmod(0)
    try:
        assert run(["models"]) == 0
        assert "OLLAMA_MODELS is left out: Permission denied" in capsys.readouterr().err
        with pytest.raises(UnknownModelError, match=r"could not look in .*Permission denied"):
            resolve("tiny")
    finally:
        ollama.manifests.chmod(0o755)


def test_a_damaged_blob_is_replaced_by_a_sound_one_or_dropped(
    ollama: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    put_model(ollama.root, weights=b"sound weights")
    copy_model(resolve("tiny"), "mine")
    tiny("alone", weights=b"only here")
    damaged = resolve("mine").path
    damaged.unlink()
    damaged.write_bytes(b"sOund weights")
    flip(resolve("alone").path)
    assert run(["verify", "mine", "alone"]) == 1
    assert "verify --repair" in capsys.readouterr().err
    assert run(["verify", "mine", "alone", "--repair", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in report["repaired"]] == ["mine:latest"]
    assert [entry["name"] for entry in report["faults"]] == ["alone:latest"]
    assert resolve("mine").path.read_bytes() == b"sound weights"
    tiny_again = [NewLayer(MODEL, b"only here"), NewLayer(TEMPLATE, b"template")]
    publish("alone", tiny_again, config={"n": "alone"}, replace=True)
    assert run(["verify", "--all"]) == 0


def test_nothing_is_mended_in_another_programs_store(ollama: Store) -> None:
    put_model(ollama.root, weights=b"their weights")
    flip(resolve("tiny").path)
    assert run(["verify", "tiny", "--repair"]) == 1
    assert resolve("tiny").path.exists()
