"""Publishing to Ollama, LM Studio and files; the official client checks the stand-in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama as official
import pytest

from llamune.store import (
    ExistsError,
    Model,
    ModelName,
    NewLayer,
    Ollama,
    OllamaError,
    Store,
    StoreError,
    lmstudio_folder,
    media_types,
    needs_merge,
    place_file,
    place_in_lmstudio,
    place_in_ollama,
    publish,
    resolve,
    verify_models,
)
from llamune.store.ollama import ollama_address
from tests.store.conftest import write_tiny_gguf
from tests.store.ollama_server import OllamaStandIn

pytestmark = pytest.mark.usefixtures("without_system_stores")
ERA_A, ERA_B = "0.34.0", "0.34.1"


@pytest.fixture
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OllamaStandIn]:
    stand_in = OllamaStandIn(tmp_path / "server", getattr(request, "param", ERA_B))
    monkeypatch.setenv("OLLAMA_HOST", stand_in.address)
    yield stand_in
    stand_in.close()


@pytest.fixture
def client(server: OllamaStandIn) -> Iterator[official.Client]:
    found = official.Client(host=server.address)
    yield found
    found._client.close()


def tuned(tmp_path: Path, *, adapter: bool = True) -> Model:
    weights = write_tiny_gguf(tmp_path / "base.gguf", "base")
    layers = [
        NewLayer(media_types.MODEL, weights),
        NewLayer(media_types.TEMPLATE, b"{{ .Prompt }}"),
        NewLayer(media_types.SYSTEM, "猫です。".encode()),
        NewLayer(media_types.PARAMS, b'{"stop":["<end>"],"temperature":0.5}'),
        NewLayer(media_types.MESSAGES, b'[{"role":"user","content":"hello"}]'),
        NewLayer(media_types.LICENSE, b"MIT"),
    ]
    if adapter:
        layers.append(NewLayer(media_types.ADAPTER, b"adapter"))
    config = {"model_format": "gguf", "renderer": "gemma", "parser": "gemma"}
    return publish("mine:1", layers, config=config, replace=True)


def merged(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "merged.gguf", "merged")


def requests_to(server: OllamaStandIn, path: str) -> list[Any]:
    return [body for _, where, body in server.requests if where == path]


@pytest.mark.parametrize("server", [ERA_A], indirect=True)
def test_the_first_era_takes_the_adapter_and_keeps_another_file(
    server: OllamaStandIn, tmp_path: Path
) -> None:
    model = tuned(tmp_path)
    assert not needs_merge(model, target="ollama")
    statuses: list[str] = []
    placed = place_in_ollama(model, ModelName.parse("mine:1"), on_status=statuses.append)
    assert statuses == ["parsing GGUF", "writing manifest", "success"]
    assert server.requests[0][:2] == ("GET", "/api/version")
    kept = Store(server.root, "server")
    assert [layer.media_type for layer in kept.manifest(ModelName("mine", "1")).layers] == [
        media_types.MODEL,
        media_types.ADAPTER,
        media_types.TEMPLATE,
        media_types.SYSTEM,
        media_types.LICENSE,
        media_types.PARAMS,
        media_types.MESSAGES,
    ]
    assert placed.digest is not None and placed.digest != model.digest
    assert kept.blob_path(placed.digest).read_bytes().startswith(model.path.read_bytes())


def test_the_second_era_wants_a_merged_file_and_keeps_it_as_it_is(
    server: OllamaStandIn, tmp_path: Path
) -> None:
    model = tuned(tmp_path)
    assert needs_merge(model, target="ollama")
    with pytest.raises(OllamaError, match="LoRA adapters are no longer supported"):
        place_in_ollama(model, ModelName.parse("mine:1"))
    path = merged(tmp_path)
    placed = place_in_ollama(model, ModelName.parse("mine:1"), merged=path)
    kept = Store(server.root, "server")
    assert placed.digest is not None
    assert kept.blob_path(placed.digest).read_bytes() == path.read_bytes()
    body = requests_to(server, "/api/create")[-1]
    assert "adapters" not in body
    assert body["template"] == "{{ .Prompt }}" and body["system"] == "猫です。"
    assert body["parameters"] == {"stop": ["<end>"], "temperature": 0.5}
    assert (body["renderer"], body["parser"], body["license"]) == ("gemma", "gemma", ["MIT"])
    assert verify_models([(kept, ModelName("mine", "1"))]) == []


def test_our_request_is_the_one_that_the_official_client_sends(
    server: OllamaStandIn, client: official.Client, tmp_path: Path
) -> None:
    model = tuned(tmp_path, adapter=False)
    place_in_ollama(model, ModelName.parse("mine:1"))
    digest = client.create_blob(model.path)
    assert digest == model.digest
    for _ in client.create(
        model="mine:1",
        files={"model.gguf": digest},
        template=model.template,
        license=list(model.licenses),
        system=model.system,
        parameters=dict(model.parameters),
        messages=list(model.messages),
        stream=True,
    ):
        pass
    ours, theirs = requests_to(server, "/api/create")
    del ours["renderer"], ours["parser"]  # the client has no fields for these
    assert ours == theirs
    assert [entry.model for entry in client.list().models] == ["mine:1"]
    assert f"FROM {server.root}" in str(client.show("mine:1").modelfile)


def test_a_blob_that_the_server_has_is_not_sent_again(
    server: OllamaStandIn, tmp_path: Path
) -> None:
    model = tuned(tmp_path, adapter=False)
    place_in_ollama(model, ModelName.parse("mine:1"))
    with pytest.raises(ExistsError, match="exists already in Ollama"):
        place_in_ollama(model, ModelName.parse("MINE:1"))
    sent: list[int] = []
    place_in_ollama(model, ModelName.parse("mine:1"), replace=True, advance=sent.append)
    posts = [path for method, path, _ in server.requests if method == "POST" and "blobs" in path]
    assert len(posts) == 1
    assert sum(sent) == model.size


def test_an_error_in_the_middle_of_the_stream_is_an_error(
    server: OllamaStandIn, tmp_path: Path
) -> None:
    server.fail_while_streaming = "disk full"
    with pytest.raises(OllamaError, match="disk full"):
        place_in_ollama(tuned(tmp_path, adapter=False), ModelName.parse("mine:1"))


def test_what_is_in_memory_is_seen_and_unloaded(
    server: OllamaStandIn, client: official.Client, tmp_path: Path
) -> None:
    model = tuned(tmp_path, adapter=False)
    place_in_ollama(model, ModelName.parse("mine:1"))
    server.loaded = ["mine:1", "other:latest"]
    assert [entry.name for entry in client.ps().models] == server.loaded
    with Ollama() as connection:
        held = connection.loaded()[0]
        assert (held.name, held.size_bytes, held.size_vram_bytes) == (
            "mine:1",
            5_000_000_000,
            4_000_000_000,
        )
        assert held.digest == Store(server.root, "").manifest(ModelName("mine", "1")).digest
        connection.unload("mine:1")
        assert [entry.name for entry in connection.loaded()] == ["other:latest"]


def test_without_a_server_the_store_is_written_by_the_safe_recipe(
    ollama: Store, tmp_path: Path
) -> None:
    model = tuned(tmp_path)
    assert needs_merge(model, target="ollama")
    placed = place_in_ollama(model, ModelName.parse("mine:1"), merged=merged(tmp_path))
    assert placed.how == f"written into {ollama.root}"
    there = ollama.manifest(ModelName("mine", "1"))
    assert [layer.media_type.rpartition(".")[2] for layer in there.layers] == [
        *("model", "template", "system", "params", "messages", "license")
    ]
    assert placed.digest == there.layers[0].digest
    assert json.loads(ollama.blob_path(there.config.digest).read_bytes())["renderer"] == "gemma"
    assert verify_models([(ollama, ModelName("mine", "1"))]) == []
    assert {path.name for path in ollama.root.iterdir()} == {"blobs", "manifests"}
    with pytest.raises(ExistsError):
        place_in_ollama(model, ModelName.parse("mine:1"), merged=merged(tmp_path))


def test_a_store_of_another_user_is_left_to_its_server(
    ollama: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamune.store.placing.may_write", lambda folder: False)
    with pytest.raises(StoreError, match="not ours to write to") as caught:
        place_in_ollama(tuned(tmp_path, adapter=False), ModelName.parse("mine:1"))
    assert "ollama serve" in str(caught.value.hint)
    assert not ollama.root.exists()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("box", "http://box:11434"),
        (":5000", "http://127.0.0.1:5000"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:1/path/", "https://box:1/path"),
        ("[::1]:8", "http://[::1]:8"),
        (' "box:9" ', "http://box:9"),
        ("box:port", "http://127.0.0.1:11434"),
    ],
)
def test_the_address_is_read_as_ollama_reads_it(
    host: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert ollama_address() == address


@pytest.mark.parametrize(
    ("version", "takes"),
    [
        *(("0.34.0", True), ("0.30.2-rc1", True), ("0.34.1", False), ("0.40.0", False)),
        *(("0.0.0", False), ("", False), ("1.0.0", False)),
    ],
)
def test_which_versions_take_adapters(version: str, takes: bool, server: OllamaStandIn) -> None:
    server.version = version
    with Ollama() as connection:
        assert connection.takes_adapters is takes


def test_a_server_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ollama.find() is None
    with pytest.raises(OllamaError, match="does not answer") as caught:
        Ollama()
    assert "ollama serve" in str(caught.value.hint)


def test_lm_studio_finds_the_file_where_its_settings_say(home: Path, tmp_path: Path) -> None:
    model = tuned(tmp_path, adapter=False)
    placed = place_in_lmstudio(model, ModelName.parse("mine:1"))
    path = home / ".lmstudio/models/llamune/mine-1/mine-1.gguf"
    assert placed.where == str(path)
    assert path.read_bytes() == model.path.read_bytes() and placed.digest == model.digest
    assert not path.samefile(model.path)
    (home / ".lmstudio/settings.json").write_text(json.dumps({"downloadsFolder": "/elsewhere"}))
    assert lmstudio_folder() == Path("/elsewhere")
    (home / ".lmstudio-home-pointer").write_text(f"{home}/studio\n")
    assert lmstudio_folder() == home / "studio/models"


def test_a_file_appears_whole_and_is_not_replaced_unasked(tmp_path: Path) -> None:
    model = tuned(tmp_path)
    source = merged(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    placed = place_file(model, out, merged=source)
    assert Path(placed.where) == out / "mine-1.gguf"
    assert (out / "mine-1.gguf").read_bytes() == source.read_bytes()
    with pytest.raises(Exception, match="exists already"):
        place_file(model, out / "mine-1.gguf", merged=source)
    (out / "mine-1.gguf").write_bytes(b"old")
    place_file(model, out / "mine-1.gguf", merged=source, replace=True)
    assert (out / "mine-1.gguf").read_bytes() == source.read_bytes()
    assert [path.name for path in out.iterdir()] == ["mine-1.gguf"]
    assert resolve("mine:1").path.stat().st_nlink == 1
