from __future__ import annotations

import subprocess
import sys

import pytest

import llamune.store


@pytest.mark.parametrize("heavy", ["torch", "transformers", "httpx", "gguf"])
def test_finding_a_model_loads_nothing_heavy(heavy: str) -> None:
    code = (
        "import sys, llamune.store as store; store.list_models(store.search_path()); "
        f"sys.exit({heavy!r} in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_nothing_else_is_promised() -> None:
    for name in llamune.store.__all__:
        assert getattr(llamune.store, name) is not None
    with pytest.raises(AttributeError):
        _ = llamune.store.nothing
