"""Metadata values, to bytes and back, with gguf-py as the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.errors import LlamuneError
from llamune.gguf import Entry, GgufError, MissingKey, ModelFile, ValueType, write_gguf

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
WHOLE = st.integers(-(1 << 63), (1 << 64) - 1)
FLOATS = st.floats(width=32, allow_nan=False)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    WHOLE,
    FLOATS,
    st.lists(TEXTS, min_size=1, max_size=40),
    st.lists(st.booleans(), min_size=1, max_size=9),
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=1, max_size=9),
    st.lists(FLOATS, min_size=1, max_size=9),
)
KEYS = st.text(st.characters(codec="ascii", categories=("Ll", "Nd")), min_size=1, max_size=12)


@settings(max_examples=80)
@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_what_is_written_is_read_by_us_and_by_the_judge(values: dict[str, object]) -> None:
    from tempfile import TemporaryDirectory

    from gguf import GGUFReader

    with TemporaryDirectory() as folder:
        path = Path(folder) / "values.gguf"
        write_gguf(path, metadata={k: Entry.of(v) for k, v in values.items()}, tensors=[])
        with ModelFile.open(path) as file:
            found = {k: as_list(file.metadata[k]) for k in file.metadata}
        assert found == values
        judge = {
            k: field.contents()
            for k, field in GGUFReader(path).fields.items()
            if not k.startswith("GGUF.")
        }
        assert judge == values


def as_list(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("kind", [kind for kind in ValueType if kind not in (8, 9)])
def test_every_type_keeps_its_extremes(kind: ValueType, tmp_path: Path) -> None:
    extremes = {"F32": (1.5, -0.0), "F64": (0.1, -1e300), "BOOL": (True, False)}
    if kind.name in extremes:
        values = extremes[kind.name]
    else:
        bits = int(kind.name[1:])
        signed = kind.name[0] == "I"
        values = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    metadata = {f"k{i}": Entry.of(value, kind) for i, value in enumerate(values)}
    metadata["array"] = Entry.of(list(values), kind)
    path = tmp_path / "extremes.gguf"
    write_gguf(path, metadata=metadata, tensors=[])
    with ModelFile.open(path) as file:
        assert tuple(file.metadata[f"k{i}"] for i in range(2)) == values
        assert tuple(file.metadata.array("array").tolist()) == values
        assert file.metadata.value_type("k0") is kind
        assert file.metadata.element_type("array") is kind
        for key, entry in metadata.items():
            assert file.metadata.entry(key) == entry


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (256, ValueType.U8),
        (-1, ValueType.U32),
        (1.5, ValueType.I32),
        ([1, 300], ValueType.I8),
        (1 << 64, None),
        (None, None),
        ({}, None),
        ([[1], [2]], None),
        (["a", 1], None),
        (np.zeros(2, np.complex64), None),
        (np.zeros((2, 2), np.float32), None),
        (1, ValueType.ARRAY),
        (1, ValueType.STRING),
    ],
)
def test_what_does_not_fit_is_refused(value: object, kind: ValueType | None) -> None:
    with pytest.raises(LlamuneError):
        Entry.of(value, kind)


def test_usual_types_are_chosen() -> None:
    wanted = {
        1: ValueType.U32,
        -1: ValueType.I32,
        1 << 40: ValueType.U64,
        -(1 << 40): ValueType.I64,
        0.5: ValueType.F32,
        "a": ValueType.STRING,
    }
    for value, kind in wanted.items():
        assert Entry.of(value).value_type is kind
    assert Entry.of(True).value_type is ValueType.BOOL
    assert Entry.of([], ValueType.STRING).value == []
    assert Entry.of(np.array([1], np.uint8)).value.dtype == np.uint8


@pytest.fixture
def file(tmp_path: Path):
    path = tmp_path / "kinds.gguf"
    values = {
        "whole": Entry.of(7, ValueType.U64),
        "number": Entry.of(0.5),
        "flag": Entry.of(True),
        "text": Entry.of(b"a\xff"),
        "texts": Entry.of(["a", "b"]),
        "numbers": Entry.of([1, 2]),
    }
    write_gguf(path, metadata=values, tensors=[])
    with ModelFile.open(path) as opened:
        yield opened


def test_kinds_are_checked(file: ModelFile) -> None:
    metadata = file.metadata
    assert (metadata.integer("whole"), metadata.number("whole")) == (7, 7.0)
    assert metadata.number("number") == 0.5
    assert metadata.flag("flag") is True
    assert metadata.text("text") == "a\N{REPLACEMENT CHARACTER}"
    assert metadata.strings("texts") == ["a", "b"]
    assert metadata.byte_strings("texts") == [b"a", b"b"]
    assert metadata.array("numbers").tolist() == [1, 2]
    assert metadata.length("texts") == 2
    wrong = {
        "integer": ("number", "flag", "text", "numbers"),
        "number": ("flag", "text", "texts"),
        "flag": ("whole", "text"),
        "text": ("whole", "texts"),
        "strings": ("text", "numbers"),
        "array": ("texts", "whole"),
    }
    with pytest.raises(GgufError, match="an array of texts is needed"):
        metadata.strings_at("numbers", [0])
    for method, keys in wrong.items():
        for key in keys:
            with pytest.raises(GgufError, match=f"{key!r} is") as caught:
                getattr(metadata, method)(key)
            assert caught.value.rule == "value type"
            assert caught.value.offset is not None


def test_missing_keys_are_named(file: ModelFile) -> None:
    for method in ("integer", "number", "flag", "text", "strings", "array", "entry", "length"):
        with pytest.raises(MissingKey, match="'gone' is missing"):
            getattr(file.metadata, method)("gone")
    assert file.metadata.get("gone") is None
    assert file.metadata.integer("gone", default=3) == 3
    assert file.metadata.number("gone", default=0.5) == 0.5
    assert file.metadata.text("gone", default="") == ""
    assert file.metadata.flag("gone", default=False) is False


def test_spans_cover_the_metadata_without_gaps(file: ModelFile) -> None:
    position = 24
    for key in file.metadata:
        start, nbytes = file.metadata.span(key)
        assert start == position
        position += nbytes
    assert position == file.headers[0].end
