"""Every test gets a home of its own; the starter model comes from a cache outside the checkout."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# llama.cpp's and torch's workers spin while they wait: one thread each (design, section 8)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# the same examples on every machine and day; `make fuzz` looks for new ones
settings.register_profile(
    "same",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("new", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")


def pytest_collection_finish() -> None:
    """Keep what is imported by now, torch and its kin, out of every later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Yield an empty `$LLAMUNE_HOME`, out of reach of the stores on this machine."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LLAMUNE_HOME", str(folder / "llamune"))
    monkeypatch.setenv("OLLAMA_MODELS", str(folder / "ollama"))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.delenv("LC_ALL", raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def starter_path() -> Path:
    """Return the path of the starter model's GGUF file."""
    from llamune.store import starter

    return starter.fetch()
