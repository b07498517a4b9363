"""Pulling and pushing against Debian's docker-registry on loopback."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llamune.cli._main import run
from llamune.store import (
    DamagedError,
    ExistsError,
    ModelName,
    NewLayer,
    RegistryError,
    StoreError,
    UnknownModelError,
    library,
    media_types,
    plan_pull,
    publish,
    pull,
    pulling,
    push,
    pushing,
    remove_model,
    resolve,
    verify_models,
)
from tests.concurrency import at_once, forked
from tests.store.conftest import put_model
from tests.store.registry_server import PROGRAM, CuttingProxy, running_registry

pytestmark = [
    pytest.mark.usefixtures("without_system_stores"),
    pytest.mark.skipif(
        shutil.which(PROGRAM) is None,
        reason="docker-registry is not installed (Debian: apt-get install docker-registry)",
    ),
]
IMAGE = "application/vnd.ollama.image."
BIG = random.Random(7).randbytes(3 << 20)


@pytest.fixture(scope="module")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(registry_folder: Path) -> Iterator[int]:
    with running_registry(registry_folder) as port:
        yield port


@pytest.fixture
def proxy(registry: int) -> Iterator[CuttingProxy]:
    cutting = CuttingProxy(registry)
    yield cutting
    cutting.close()


@pytest.fixture
def target(registry: int, request: pytest.FixtureRequest) -> ModelName:
    """Return a repository of the test's own."""
    model = request.node.name.removeprefix("test_").partition("[")[0].lower()[:60]
    return ModelName.parse(f"127.0.0.1:{registry}/me/{model}:1")


def through(proxy: CuttingProxy, name: ModelName) -> ModelName:
    return ModelName.parse(f"localhost:{proxy.port}/{name.namespace}/{name.model}:{name.tag}")


def local(weights: bytes = BIG, name: str = "mine") -> None:
    publish(
        name,
        [
            NewLayer(f"{IMAGE}model", weights),
            NewLayer(f"{IMAGE}template", b"{{ .Prompt }}"),
            NewLayer(f"{IMAGE}license", b"x"),
        ],
        config={"model_format": "gguf"},
        annotations={"llamune.run": "mine#1"},
        replace=True,
    )


def empty_library() -> None:
    shutil.rmtree(library().root)


def blob_in_registry(folder: Path, digest: str) -> Path:
    hexadecimal = digest.removeprefix("sha256:")
    return folder / f"data/docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"


def test_a_model_goes_up_and_comes_back_the_same(target: ModelName) -> None:
    local()
    sent: list[int] = []
    before = resolve("mine")
    assert before.manifest is not None
    assert push(before, target, advance=sent.append) == before.manifest.digest
    assert sum(sent) == before.manifest.size
    empty_library()
    plan = plan_pull(target)
    got: list[int] = []
    after = pull(plan, advance=got.append)
    assert sum(got) == plan.bytes_to_fetch == before.manifest.size
    assert after.manifest == before.manifest
    assert after.annotations == {"llamune.run": "mine#1"}
    assert after.name == target and resolve(str(target)).digest == before.digest
    assert verify_models([(library(), target)]) == []


def test_what_is_there_already_is_not_sent_again(target: ModelName) -> None:
    local()
    push(resolve("mine"), target)
    assert plan_pull(target).missing == ()
    pulled = pull(plan_pull(target))
    assert pulled.path.samefile(resolve("mine").path)
    remove_model(library(), ModelName("mine"))
    remove_model(library(), target)
    assert len(plan_pull(target).missing) == 4


def test_a_blob_of_another_local_store_is_linked_not_fetched(target: ModelName, home: Path) -> None:
    local()
    push(resolve("mine"), target)
    empty_library()
    put_model(home / "ollama", weights=BIG)
    got: list[int] = []
    pulled = pull(plan_pull(target), advance=got.append)
    assert sum(got) < 1000
    assert pulled.path.samefile(resolve("tiny").path)


def test_a_pull_goes_on_after_every_cut(target: ModelName, proxy: CuttingProxy) -> None:
    local()
    push(resolve("mine"), target)
    empty_library()
    plan = plan_pull(through(proxy, target))
    proxy.down_limits = [0, 1000, 700_000, 100_000, 300_000, 1_000_000]
    got: list[int] = []
    model = pull(plan, advance=got.append)
    assert model.path.read_bytes() == BIG
    assert proxy.n_cuts >= 4
    assert sum(got) == plan.bytes_to_fetch
    assert not list(library().blobs.glob("*-partial"))


def test_an_interrupted_pull_goes_on_next_time_and_fetches_only_the_rest(
    target: ModelName, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    local()
    push(resolve("mine"), target)
    empty_library()
    monkeypatch.setattr(pulling, "SECONDS_BETWEEN_TRIES", 0.0)
    monkeypatch.setattr(pulling, "MAX_PARALLEL_LAYERS", 1)  # the big layer comes first
    name = through(proxy, target)
    plan = plan_pull(name)
    proxy.down_limits = [1_500_000] + [0] * 40
    with pytest.raises(RegistryError, match="connection failed") as caught:
        pull(plan)
    assert "goes on where it stopped" in str(caught.value.hint)
    with pytest.raises(UnknownModelError):
        resolve(str(name))
    proxy.down_limits = []
    again = plan_pull(name)
    assert 0 < again.bytes_to_fetch < len(BIG) - 1_000_000
    got: list[int] = []
    assert pull(again, advance=got.append).path.read_bytes() == BIG
    assert sum(got) == again.bytes_to_fetch


def test_a_push_goes_on_after_every_cut(
    target: ModelName, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "PATCH_BYTES", 1 << 20)
    monkeypatch.setattr(pushing, "SECONDS_BETWEEN_TRIES", 0.05)
    local()
    model = resolve("mine")
    assert model.manifest is not None
    monkeypatch.setattr(pulling, "MAX_PARALLEL_LAYERS", 1)
    proxy.up_limits = [1_400_000, 500, 300_000, 1_200_000]
    sent: list[int] = []
    push(model, through(proxy, target), advance=sent.append)
    assert proxy.n_cuts >= 2
    assert sum(sent) == model.manifest.size
    empty_library()
    assert pull(plan_pull(target)).path.read_bytes() == BIG


def test_a_corrupted_blob_in_the_registry_is_found_and_not_kept(
    target: ModelName, registry_folder: Path
) -> None:
    weights = BIG[::-1]
    local(weights)
    model = resolve("mine")
    assert model.digest is not None
    push(model, target)
    empty_library()
    path = blob_in_registry(registry_folder, model.digest)
    data = bytearray(path.read_bytes())
    data[1_000_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=f"{model.digest} arrived with the digest sha256:"):
        pull(plan_pull(target))
    assert not library().has(model.digest)
    assert not list(library().blobs.glob("*-partial"))
    path.write_bytes(weights)
    assert pull(plan_pull(target)).path.read_bytes() == weights


@pytest.mark.parametrize("change", [b"", b"more"])
def test_a_blob_of_another_length_is_refused(
    target: ModelName,
    registry_folder: Path,
    change: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulling, "SECONDS_BETWEEN_TRIES", 0.0)
    weights = b"weights of their own " + change
    local(weights)
    model = resolve("mine")
    assert model.digest is not None
    push(model, target)
    empty_library()
    path = blob_in_registry(registry_folder, model.digest)
    path.write_bytes(weights + change if change else weights[:-5])
    with pytest.raises(StoreError):
        pull(plan_pull(target))
    assert library().names() == []


def test_a_damaged_blob_of_ours_is_refused_by_the_registry(target: ModelName) -> None:
    local(b"weights that rot")
    model = resolve("mine")
    model.path.write_bytes(b"weights thAt rot")
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        push(model, target)
    with pytest.raises(RegistryError, match="404"):
        plan_pull(target)


def test_another_version_is_taken_only_when_asked(target: ModelName) -> None:
    local(b"first")
    push(resolve("mine"), target)
    pull(plan_pull(target))
    local(b"second")
    push(resolve("mine"), target)
    with pytest.raises(ExistsError, match="another version"):
        plan_pull(target)
    assert pull(plan_pull(target, replace=True), replace=True).path.read_bytes() == b"second"


def test_another_version_that_came_while_fetching_is_not_written_over(target: ModelName) -> None:
    local(b"first")
    push(resolve("mine"), target)
    plan = plan_pull(target)
    local(b"second", name=str(target))
    with pytest.raises(ExistsError, match="another version"):
        pull(plan)
    assert resolve(str(target)).path.read_bytes() == b"second"


def test_unknown_models_and_closed_ports_are_one_clear_line(registry: int) -> None:
    with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN"):
        plan_pull(ModelName.parse(f"127.0.0.1:{registry}/me/nothing:1"))
    with pytest.raises(RegistryError, match="connection failed"):
        plan_pull(ModelName.parse("127.0.0.1:1/me/nothing:1"))


def test_two_pulls_of_one_model_at_once_both_succeed(target: ModelName) -> None:
    local()
    push(resolve("mine"), target)
    empty_library()
    first, second = plan_pull(target), plan_pull(target)
    one, other = at_once(lambda: pull(first), lambda: pull(second))
    assert one.digest == other.digest
    assert verify_models([(library(), target)]) == []
    assert len(list(library().blobs.iterdir())) == 4


def test_the_manifest_in_the_registry_is_what_we_wrote(
    target: ModelName, registry_folder: Path
) -> None:
    local(b"weights")
    digest = push(resolve("mine"), target)
    stored = json.loads(blob_in_registry(registry_folder, digest).read_bytes())
    assert stored["layers"][0]["mediaType"] == f"{IMAGE}model"
    assert stored["annotations"] == {"llamune.run": "mine#1"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child")
def test_a_pull_that_was_killed_goes_on_with_what_had_arrived(target: ModelName) -> None:
    local()
    push(resolve("mine"), target)
    empty_library()
    arrived = 0

    def die_on_the_way(n_bytes: int) -> None:
        nonlocal arrived
        arrived += n_bytes
        if arrived > 500_000:
            os.kill(os.getpid(), signal.SIGKILL)

    child = forked(lambda: pull(plan_pull(target), advance=die_on_the_way))
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert library().names() == []
    plan = plan_pull(target)
    assert 0 < plan.bytes_to_fetch < plan.manifest.size - 400_000
    assert pull(plan).path.read_bytes() == BIG
    assert verify_models([(library(), target)]) == []


def test_a_package_folder_goes_up_as_an_artifact_with_file_names(
    target: ModelName, registry: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "package"
    (folder / "licences").mkdir(parents=True)
    (folder / "README.md").write_text("a card")
    (folder / "licences" / "MIT.txt").write_text("MIT")
    (folder / "model.gguf").write_bytes(BIG)
    assert run(["push", str(folder), str(target)]) == 0
    url = f"http://127.0.0.1:{registry}/v2/{target.namespace}/{target.model}"
    accept = {"Accept": media_types.OCI_MANIFEST}
    stored = httpx.get(f"{url}/manifests/{target.tag}", headers=accept).json()
    assert stored["artifactType"] == "application/vnd.llamune.package.v1"
    files = {
        layer["annotations"]["org.opencontainers.image.title"]: httpx.get(
            f"{url}/blobs/{layer['digest']}"
        ).content
        for layer in stored["layers"]
    }
    assert files == {"README.md": b"a card", "licences/MIT.txt": b"MIT", "model.gguf": BIG}
    assert run(["pull", str(target)]) == 2
    assert "is a package, not a model" in capsys.readouterr().err
    (folder / "link").symlink_to("README.md")
    assert run(["push", str(folder), str(target)]) == 2
