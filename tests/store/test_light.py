from __future__ import annotations

import subprocess
import sys

import pytest

import llamune.store


def test_finding_a_model_loads_nothing_heavy() -> None:
    code = (
        "import sys, llamune.store as store; store.list_models(store.search_path()); "
        "print({'torch', 'transformers', 'httpx', 'gguf'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_every_public_name_is_there_and_nothing_else_is_promised() -> None:
    for name in llamune.store.__all__:
        assert getattr(llamune.store, name) is not None
    with pytest.raises(AttributeError):
        _ = llamune.store.nothing
