"""The public face: names load lazily, and light things start without heavy libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llamune

HEAVY = ("torch", "transformers", "peft", "xllamacpp", "fastapi", "pyarrow", "matplotlib")
LIGHT_ROOMS = (
    *("gguf", "store", "license", "arch", "text", "convert", "adapter", "anatomy", "data"),
    *("runs", "plan", "engine"),
)


def heavy_after(code: str) -> list[str]:
    """Return which heavy libraries a fresh process has loaded after running `code`."""
    check = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("name", llamune.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(llamune, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse(Path(llamune.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imported = {
        name.asname: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert imported == llamune.PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = llamune.no_such_name


def test_light_rooms_load_no_heavy_library() -> None:
    assert heavy_after("\n".join(f"import llamune.{room}" for room in LIGHT_ROOMS)) == []


def test_help_loads_no_heavy_library() -> None:
    assert heavy_after("from llamune.cli._main import run; run(['--help'])") == []
