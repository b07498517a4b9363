"""A process killed at any line of a publish leaves the old model or the new one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import llamune.files
import llamune.store
from llamune.store import (
    ModelName,
    NewLayer,
    Store,
    collect_garbage,
    copy_model,
    library,
    publish,
    remove_model,
    resolve,
    verify_models,
)
from tests.concurrency import forked
from tests.store.conftest import put_model

pytestmark = [
    pytest.mark.usefixtures("without_system_stores"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children"),
]
OURS = (str(Path(llamune.store.__file__).parent), str(Path(llamune.files.__file__)))
MODEL = "application/vnd.ollama.image.model"
TEMPLATE = "application/vnd.ollama.image.template"


def killed_at_line(number: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed before its n-th line in the store's code."""
    left = number

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return count

    def traced() -> None:
        sys.settrace(count)
        work()

    _, status = os.waitpid(forked(traced), 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def check(store: Store, name: ModelName, allowed: set[bytes | None]) -> bytes | None:
    """Check that the store verifies and return the weights under a name."""
    targets = [(store, found) for found in store.names()]
    assert verify_models(targets) == []
    found = resolve(str(name)).path.read_bytes() if store.find(name) else None
    assert found in allowed
    return found


def layers(weights: bytes) -> list[NewLayer]:
    return [NewLayer(MODEL, weights), NewLayer(TEMPLATE, b"{{ .Prompt }}")]


def run_killed_everywhere(
    before: Callable[[], object], work: Callable[[], object], allowed: set[bytes | None], step: int
) -> set[bytes | None]:
    """Kill the work at every `step`-th line until it gets through; return what was seen."""
    seen: set[bytes | None] = set()
    name = ModelName("victim")
    number = 1
    while True:
        before()
        killed = killed_at_line(number, work)
        seen.add(check(library(), name, allowed))
        if not killed:
            break
        number += step
    assert number > 150
    work()  # and it can be done again
    collect_garbage(library(), grace_seconds=-1)
    check(library(), name, allowed)
    assert not list(library().root.rglob("*.part"))
    return seen


every_line = pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])


@every_line
def test_a_publish_killed_at_any_line_leaves_the_old_model_or_the_new(
    tmp_path: Path, step: int
) -> None:
    source = tmp_path / "new"
    source.write_bytes(b"new weights")

    def before() -> None:
        publish("victim", layers(b"old weights"), config={}, replace=True)
        collect_garbage(library(), grace_seconds=-1)

    def work() -> None:
        publish("victim", [NewLayer(MODEL, source)], config={"new": 1}, replace=True)

    seen = run_killed_everywhere(before, work, {b"old weights", b"new weights"}, step)
    assert seen == {b"old weights", b"new weights"}


@every_line
def test_a_copy_from_another_store_killed_at_any_line(ollama: Store, step: int) -> None:
    put_model(ollama.root, weights=b"theirs")
    theirs = resolve("tiny")

    def before() -> None:
        if library().find(ModelName("victim")):
            remove_model(library(), ModelName("victim"))

    def work() -> None:
        copy_model(theirs, "victim", replace=True)

    assert run_killed_everywhere(before, work, {None, b"theirs"}, step) == {None, b"theirs"}
    assert theirs.path.read_bytes() == b"theirs"


@every_line
def test_a_removal_killed_at_any_line(ollama: Store, step: int) -> None:
    def before() -> None:
        publish("victim", layers(b"weights"), config={}, replace=True)
        publish("other", layers(b"weights of another"), config={}, replace=True)

    def work() -> None:
        if library().find(ModelName("victim")):
            remove_model(library(), ModelName("victim"))

    assert run_killed_everywhere(before, work, {None, b"weights"}, step) == {None, b"weights"}
    assert resolve("other").path.read_bytes() == b"weights of another"


def test_publishing_beside_cleaning_up_loses_nothing() -> None:
    """Two publishers of the same blobs, a remover and a cleaner, all at once."""
    store = library()

    def publisher(name: str) -> None:
        for _ in range(25):
            publish(name, layers(b"shared weights"), config={"n": name}, replace=True)

    def remover() -> None:
        for _ in range(25):
            publish("temporary", layers(b"shared weights"), config={}, replace=True)
            remove_model(store, ModelName("temporary"))

    def cleaner() -> None:
        for _ in range(50):
            collect_garbage(store, grace_seconds=-1)

    works = (lambda: publisher("a"), lambda: publisher("b"), remover, cleaner)
    children = [forked(work) for work in works]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0, 0, 0, 0]
    assert [str(name) for name in store.names()] == ["a:latest", "b:latest"]
    assert verify_models([(store, name) for name in store.names()]) == []
