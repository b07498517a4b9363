from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamune.store import ModelName, StoreError


@pytest.mark.parametrize(
    ("text", "path", "short"),
    [
        ("gemma2", "registry.ollama.ai/library/gemma2/latest", "gemma2:latest"),
        ("gemma2:9b", "registry.ollama.ai/library/gemma2/9b", "gemma2:9b"),
        ("me/gemma2", "registry.ollama.ai/me/gemma2/latest", "me/gemma2:latest"),
        ("hf.co/a-b/X.y-GGUF:Q4_K_M", "hf.co/a-b/X.y-GGUF/Q4_K_M", "hf.co/a-b/X.y-GGUF:Q4_K_M"),
        ("localhost:5000/a/m:t", "localhost:5000/a/m/t", "localhost:5000/a/m:t"),
        ("localhost:5000/a/m", "localhost:5000/a/m/latest", "localhost:5000/a/m:latest"),
        ("http://localhost:5000/a/m", "localhost:5000/a/m/latest", "localhost:5000/a/m:latest"),
        ("registry.ollama.ai/library/x:y", "registry.ollama.ai/library/x/y", "x:y"),
        ("Registry.Ollama.AI/Library/X:Y", "Registry.Ollama.AI/Library/X/Y", "X:Y"),
    ],
)
def test_names_take_ollamas_defaults(text: str, path: str, short: str) -> None:
    name = ModelName.parse(text)
    assert str(name.relative_path) == path
    assert str(name) == short


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "a:", ":b", "/a", "a//b", "a/b/c/d", "../a", "a/../b", "a:../b", ".a", "-a"),
        *("a b", "a\0", "a.b/c", "gemma2:9b\n", "日本", "a:b/c:d:e", "x" * 81, "a:" + "t" * 81),
    ],
)
def test_what_is_not_a_name_is_refused(text: str) -> None:
    with pytest.raises(StoreError):
        ModelName.parse(text)


def test_case_does_not_matter_for_equality_of_keys() -> None:
    assert ModelName.parse("Gemma2:9B").key == ModelName.parse("gemma2:9b").key


@given(st.text(alphabet="abA0_.-:/ \\\0~é", max_size=40))
def test_a_name_never_leaves_the_folder_and_reads_back(text: str) -> None:
    name = ModelName.maybe(text)
    if name is None:
        return
    parts = name.relative_path.parts
    assert len(parts) == 4
    assert not any(part in ("", ".", "..") or "/" in part or "\\" in part for part in parts)
    assert ModelName.parse(str(name)).key == name.key
