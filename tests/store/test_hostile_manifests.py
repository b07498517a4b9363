"""Manifests from outside: whatever they hold, the answer is a result or one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamune.cli._main import run
from llamune.errors import LlamuneError
from llamune.store import (
    DamagedError,
    ModelName,
    NewLayer,
    Store,
    StoreError,
    collect_garbage,
    copy_model,
    list_models,
    media_types,
    publish,
    resolve,
    verify_models,
)
from llamune.store.digests import blob_file_name, digest_of_file_name, parse_digest
from llamune.store.manifests import Layer, Manifest, parse_manifest
from tests.store.conftest import put_blob, put_model

pytestmark = pytest.mark.usefixtures("without_system_stores")
ZERO = "sha256:" + "0" * 64
VALID = {
    "schemaVersion": 2,
    "mediaType": media_types.MANIFEST,
    "config": {"mediaType": media_types.CONFIG, "digest": ZERO, "size": 2},
    "layers": [{"mediaType": media_types.MODEL, "digest": ZERO, "size": 2, "from": "x"}],
    "annotations": {"llamune.run": "x#1"},
}

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([ZERO, ZERO.upper(), "sha256-" + "0" * 64, "../../x", media_types.MODEL])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every part of a JSON value."""
    found = [path]
    if isinstance(value, dict):
        entries = list(value.items())
    else:
        entries = list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


def changed(path: tuple[Any, ...], value: Any) -> Any:
    """Return the valid manifest with one part replaced."""
    if not path:
        return value
    copy = json.loads(json.dumps(VALID))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


@given(st.sampled_from(places(VALID)), values)
@settings(max_examples=400)
def test_a_manifest_with_any_part_replaced_reads_or_is_refused(
    path: tuple[Any, ...], value: Any
) -> None:
    data = json.dumps(changed(path, value)).encode()
    try:
        manifest = parse_manifest(data, where="x")
    except LlamuneError as error:
        assert error.message.startswith("x")
        return
    for layer in manifest.blobs:
        assert blob_file_name(layer.digest).removeprefix("sha256-").isalnum()
        assert layer.size >= 0
    again = Manifest(manifest.config, manifest.layers, manifest.annotations, manifest.media_type)
    assert parse_manifest(again.encode(), where="y").layers == manifest.layers


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(LlamuneError):
        parse_manifest(data, where="x")


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=4))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_store_with_a_damaged_manifest_stays_usable(
    tmp_path: Path, offset: int, bad: bytes
) -> None:
    store = Store(tmp_path / "store", "test", ours=True)
    put_model(store.root, weights=b"sound", relative="h/n/sound/t")
    path = put_model(store.root, relative="h/n/victim/t", extra=(("system", b"be kind"),))
    data = bytearray(path.read_bytes())
    offset %= len(data)
    data[offset : offset + len(bad)] = bad
    path.write_bytes(data)
    listed = {model.name.model: model for model in list_models([store])}
    assert listed["sound"].kind == "model"
    assert "victim" in listed
    verify_models([(store, name) for name in store.names()])
    try:
        resolve("h/n/victim:t", stores=[store])
    except LlamuneError as error:
        assert "\n" not in error.message
    try:
        collect_garbage(store, grace_seconds=0)
    except StoreError as error:
        assert "damaged manifest" in error.message
    assert resolve("h/n/sound:t", stores=[store]).path.read_bytes() == b"sound"


@given(st.text(max_size=80) | st.from_regex(r"sha256[:-][0-9a-fA-F/.]{60,68}", fullmatch=True))
@settings(max_examples=300)
def test_a_digest_is_matched_in_full_before_it_becomes_a_path(text: str) -> None:
    try:
        name = blob_file_name(parse_digest(text, where="x"))
    except DamagedError:
        return
    assert len(name) == 71 and "/" not in name and "." not in name
    assert digest_of_file_name(name) == parse_digest(text, where="x")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 100_000,
        '{"schemaVersion": ' + "9" * 10_000 + "}",
        '{"schemaVersion": 1e999}',
        '{"schemaVersion": NaN}',
        '{"mediaType": "\\ud800"}',
        "\ufeff{}",
        "null",
    ],
)
def test_json_that_readers_choke_on_is_refused(
    ollama: Store, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put_model(ollama.root).write_text(text)
    assert run(["models"]) == 0
    assert run(["verify", "tiny"]) == 1
    with pytest.raises(LlamuneError):
        resolve("tiny")
    assert "Traceback" not in capsys.readouterr().err


def test_a_manifest_too_large_to_be_one_is_not_read(ollama: Store) -> None:
    path = put_model(ollama.root)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError, match="too many for a manifest"):
        resolve("tiny")


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("params", b"[1]", "JSON object expected"),
        ("params", b'{"a": NaN}', "not readable"),
        ("messages", b'{"a": 1}', "list of messages"),
        ("messages", b'[1], "x": [2]', "list of messages"),
        ("template", b"x" * (17 << 20), "too many for a text layer"),
    ],
)
def test_small_layers_are_checked(ollama: Store, kind: str, data: bytes, message: str) -> None:
    put_model(ollama.root, extra=((kind, data),))
    with pytest.raises(DamagedError, match=message):
        resolve("tiny")


def test_a_small_layer_with_other_bytes_is_never_used(ollama: Store) -> None:
    put_model(ollama.root, extra=(("template", b"{{ .Prompt }}"),))
    path = ollama.blob_path(put_blob(ollama.root, b"{{ .Prompt }}"))
    path.write_bytes(b"{{ .Evil!! }}")
    with pytest.raises(DamagedError, match="do not have the digest in its name"):
        resolve("tiny")


def test_control_codes_in_a_manifest_never_reach_the_terminal(
    ollama: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    put_model(ollama.root, config={"model_type": "\x1b[31m9B", "file_type": "\x07Q4_0"})
    put_model(
        ollama.root, "registry.ollama.ai/library/odd/latest", changes={"mediaType": "\x1b]0;x\x07"}
    )
    assert run(["models"]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "\x07" not in shown.out + shown.err


def test_files_that_are_no_manifests_are_passed_over(ollama: Store) -> None:
    folder = put_model(ollama.root).parent
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "a b").write_text("{}")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "file").write_text("{}")
    assert [str(name) for name in ollama.names()] == ["tiny:latest"]


def test_links_out_of_a_store_are_followed_to_regular_files_only(
    ollama: Store, tmp_path: Path
) -> None:
    put_model(ollama.root)
    path = resolve("tiny").path
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DamagedError, match="not a regular file"):
        resolve("tiny")
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(LlamuneError):
        resolve("tiny")
    assert run(["models"]) == 0


def test_lineage_survives_a_copy_and_odd_annotations_are_dropped(ollama: Store) -> None:
    put_model(ollama.root, changes={"annotations": {"a": "b", "n": 1, "l": ["x"]}})
    model = copy_model(resolve("tiny"), "mine")
    assert model.annotations == {"a": "b"}


def test_a_layer_of_ours_is_written_as_it_was_read() -> None:
    layer = Layer(media_types.TENSOR, ZERO, 5, origin="a:b", name="blk.0", annotations={"k": "v"})
    manifest = Manifest(layer, (layer,))
    assert parse_manifest(manifest.encode(), where="x").layers == (layer,)


def test_a_name_on_disk_is_used_as_it_is_spelt() -> None:
    publish("Me/Model:V1", [NewLayer(media_types.MODEL, b"x")], config={})
    assert resolve("me/model:v1").name == ModelName.parse("Me/Model:V1")
