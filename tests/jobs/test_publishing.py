"""`tune --to PLACE`: the result goes where another program finds it, and the record says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamune.errors import LlamuneError
from llamune.files import sha256_of
from llamune.jobs import tune
from llamune.jobs.publishing import checked_target, plan_publication, publish
from llamune.runs import Run
from llamune.store import Store, media_types
from tests.store.ollama_server import OllamaStandIn

QUICK: dict[str, Any] = {"steps": 4, "evaluations": 1, "learning_rate": 5e-3, "rank": 4}


@pytest.fixture
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OllamaStandIn]:
    stand_in = OllamaStandIn(tmp_path / "ollama", getattr(request, "param", "0.33.0"))
    monkeypatch.setenv("OLLAMA_HOST", stand_in.address)
    yield stand_in
    stand_in.close()


def kept_in(server: OllamaStandIn) -> tuple[list[str], str]:
    """Return the kinds of layer of the one model that the server has, and its file's digest."""
    store = Store(server.root, "stand-in")
    layers = store.manifest(store.names()[0]).layers
    kinds = [layer.media_type.rpartition(".")[2] for layer in layers]
    return kinds, next(one.digest for one in layers if one.media_type == media_types.MODEL)


@pytest.mark.parametrize(
    ("server", "kinds"),
    [
        ("0.33.0", ["model", "adapter"]),
        pytest.param("0.35.2", ["model"], marks=pytest.mark.slow),
    ],
    indirect=["server"],
)
def test_ollama_has_it_and_its_own_digest_is_recorded(
    server: OllamaStandIn, kinds: list[str], tiny_base: Path, examples: Path
) -> None:
    run = tune(str(tiny_base), data=examples, name="colours", to="ollama", **QUICK)
    found, digest = kept_in(server)
    assert found[: len(kinds)] == kinds
    base = run.record.base
    assert base is not None
    assert digest != f"sha256:{base.sha256_before}"  # a copy that the server wrote, or merged
    assert run.record.published == (
        "library: colours:latest",
        f"ollama: colours:latest, {digest}",
    )
    assert digest in run.report_path.read_text()
    with pytest.raises(LlamuneError, match="exists already in Ollama"):
        tune(str(tiny_base), data=examples, name="colours", to="ollama", **QUICK)
    publish(plan_publication("colours", to="ollama", name="other"))
    assert Run.find("colours").record.published[2].startswith("ollama: other:latest, sha256:")


@pytest.mark.slow
def test_lm_studio_finds_a_merged_file(
    tiny_base: Path, examples: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    run = tune(str(tiny_base), data=examples, name="colours:v2", to="lmstudio", **QUICK)
    path = home / ".lmstudio/models/llamune/colours-v2/colours-v2.gguf"
    assert path.is_file()
    assert f"lmstudio: {path}, sha256:{sha256_of(path)}" in run.record.published
    assert sha256_of(path) != sha256_of(tiny_base)


def test_a_place_that_is_taken_is_refused_before_the_work(
    server: OllamaStandIn, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    taken = home / ".lmstudio/models/llamune/mine/mine.gguf"
    taken.parent.mkdir(parents=True)
    for path in (taken, tmp_path / "mine.gguf"):
        path.touch()
    manifest = server.manifest_path("mine:latest")
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    for to in ("ollama", "lmstudio", str(tmp_path), str(tmp_path / "mine.gguf")):
        checked_target(to, "other" if to == str(tmp_path) else "mine", replace=True)
        with pytest.raises(LlamuneError, match="exists already"):
            checked_target(to, "mine", replace=False)
    checked_target(str(tmp_path), "other", replace=False)


def test_a_place_with_a_spelling_mistake_is_no_file() -> None:
    with pytest.raises(LlamuneError, match="no place is called 'lmstudo'") as caught:
        checked_target("lmstudo", "mine", replace=False)
    assert "`lmstudio`" in (caught.value.hint or "")
    place = checked_target("./lmstudo", "mine", replace=False)
    assert place == str(Path.cwd() / "lmstudo")


def test_a_place_that_refuses_leaves_the_run_done(
    server: OllamaStandIn, tiny_base: Path, examples: Path
) -> None:
    server.fail_while_streaming = "disk full"
    with pytest.raises(LlamuneError, match="is done and in our library, but ollama refuses it"):
        tune(str(tiny_base), data=examples, name="colours", to="ollama", **QUICK)
    run = Run.find("colours")
    assert run.record.state == "done"
    assert run.report_path.is_file()
