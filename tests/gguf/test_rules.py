"""Each rule of a checked header, broken alone, by its name; published holes among them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from llamune.gguf import GgufError, ModelFile, UnsupportedFileError

from .by_hand import array, entry, gguf, key, text, u32, u64

F32_FOUR = entry("t", (4,), 0, 0)
DATA = bytes(32)
STRING, U32, ARRAY = 8, 4, 9

BROKEN = {
    "not a GGUF file": ("magic", b"PK\x03\x04" + bytes(40)),
    "empty file": ("magic", b""),
    "CVE-2024-39720: four bytes": ("complete", b"GGUF"),
    "header cut in the counts": ("complete", gguf()[:20]),
    "version 1": ("version", gguf(version=1)),
    "version 4": ("version", gguf(version=4)),
    "version 0": ("version", gguf(version=0)),
    "big-endian": ("byte order", b"GGUF" + (3).to_bytes(4, "big") + bytes(32)),
    "CVE-2024-23605: more keys than bytes": ("count", gguf(n_keys=1 << 62)),
    "CVE-2024-23496: more tensors than bytes": ("count", gguf(n_entries=(1 << 64) - 1)),
    "keys that would fill the file twice": ("count", gguf(n_keys=3, data=bytes(8))),
    "CVE-2024-21825: key length that overflows": (
        "complete", gguf(keys=(u64((1 << 64) - 1) + b"x" * 40,)),
    ),
    "key longer than allowed": (
        "string length", gguf(keys=(key("k" * 65_536, U32, u32(1)),)),
    ),
    "empty key": ("names", gguf(keys=(key("", U32, u32(1)),))),
    "key that is not UTF-8": ("names", gguf(keys=(key(b"\xff\xfe", U32, u32(1)),))),
    "key twice": ("unique keys", gguf(keys=(key("k", U32, u32(1)), key("k", U32, u32(1))))),
    "unknown value type": ("value type", gguf(keys=(key("k", 13, bytes(8)),))),
    "value cut": ("complete", gguf(keys=(key("k", 10, bytes(2)),), alignment=1)),
    "flag that is neither true nor false": ("flags", gguf(keys=(key("k", 7, b"\x02"),))),
    "flag in an array": ("flags", gguf(keys=(array("k", 7, 3, b"\0\x01\x07"),))),
    "CVE-2024-21836: string longer than the file": (
        "complete", gguf(keys=(key("k", STRING, u64(1 << 40)),)),
    ),
    "string longer than allowed": (
        "string length", gguf(keys=(key("k", STRING, text(bytes((16 << 20) + 1))),)),
    ),
    "CVE-2024-21802: array whose bytes overflow": (
        "array length", gguf(keys=(array("k", 10, (1 << 61) + 1, bytes(16)),)),
    ),
    "CVE-2025-0315: array that asks for everything": (
        "array length", gguf(keys=(array("k", 0, (1 << 31) - 1, bytes(64)),)),
    ),
    "texts in an array cut": (
        "complete", gguf(keys=(array("k", STRING, 3, text("a" * 9) * 2),), alignment=1),
    ),
    "text in an array longer than the file": (
        "complete", gguf(keys=(array("k", STRING, 2, text("a") + u64(1 << 63)),), data=DATA),
    ),
    "nested array": ("nested arrays", gguf(keys=(array("k", ARRAY, 1, u32(4) + u64(0)),))),
    "array of an unknown type": ("value type", gguf(keys=(array("k", 99, 1, bytes(8)),))),
    "CVE-2025-0317: alignment 0": (
        "alignment", gguf(keys=(key("general.alignment", U32, u32(0)),)),
    ),
    "alignment 3": ("alignment", gguf(keys=(key("general.alignment", U32, u32(3)),))),
    "alignment too large": (
        "alignment", gguf(keys=(key("general.alignment", U32, u32(1 << 21)),)),
    ),
    "alignment that is a text": (
        "alignment", gguf(keys=(key("general.alignment", STRING, text("32")),)),
    ),
    "tensor without a name": ("names", gguf(entries=(entry("", (4,), 0, 0),), data=DATA)),
    "tensor name of 64 bytes": (
        "string length", gguf(entries=(entry("x" * 64, (4,), 0, 0),), data=DATA),
    ),
    "tensor twice": (
        "unique tensors", gguf(entries=(F32_FOUR, entry("t", (4,), 0, 32)), data=DATA * 2),
    ),
    "no dimensions": ("dimensions", gguf(entries=(entry("t", (), 0, 0),), data=DATA * 2)),
    "five dimensions": (
        "dimensions", gguf(entries=(entry("t", (1, 1, 1, 1, 1), 0, 0),), data=DATA),
    ),
    "dimension 0": ("dimensions", gguf(entries=(entry("t", (4, 0), 0, 0),), data=DATA)),
    "CVE-2026-27940: elements that overflow 63 bits": (
        "dimensions", gguf(entries=(entry("t", (1 << 32, 1 << 31), 0, 0),), data=DATA),
    ),
    "elements that wrap around to four": (
        "dimensions", gguf(entries=(entry("t", ((1 << 62) + 1, 4), 0, 0),), data=DATA),
    ),
    "unknown tensor type": ("tensor type", gguf(entries=(entry("t", (4,), 99, 0),), data=DATA)),
    "removed tensor type": ("tensor type", gguf(entries=(entry("t", (32,), 4, 0),), data=DATA)),
    "row that is not whole blocks": (
        "whole blocks", gguf(entries=(entry("t", (33,), 2, 0),), data=DATA * 2),
    ),
    "tensor that is not aligned": (
        "aligned data", gguf(entries=(entry("t", (4,), 0, 8),), data=DATA * 2),
    ),
    "CVE-2026-7482: tensor larger than the file": (
        "tensor bounds", gguf(entries=(entry("t", (1000,), 0, 0),), data=DATA),
    ),
    "CVE-2024-12055: tensor beyond the file": (
        "tensor bounds", gguf(entries=(entry("t", (4,), 0, 1 << 20),), data=DATA),
    ),
    "CVE-2025-53630: offset that wraps around": (
        "tensor bounds", gguf(entries=(entry("t", (4,), 0, (1 << 64) - 32),), data=DATA),
    ),
    "data cut by one byte": (
        "tensor bounds", gguf(entries=(entry("t", (8,), 0, 0),), data=bytes(31)),
    ),
    "tensors that overlap": (
        "no overlaps",
        gguf(entries=(entry("a", (16,), 0, 0), entry("b", (8,), 0, 32)), data=DATA * 2),
    ),
    "entry of a tensor cut": (
        "complete", gguf(entries=(F32_FOUR + text("u" * 40),), n_entries=2, alignment=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("mapped", [True, False])
def test_a_broken_rule_is_named(tmp_path: Path, name: str, mapped: bool) -> None:
    rule, data = BROKEN[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(GgufError) as caught:
        ModelFile.open(path, mapped=mapped)
    error = caught.value
    assert (error.path, error.rule) == (path, rule)
    assert error.offset is not None
    assert str(path) in error.message
    assert f"byte {error.offset}" in error.message


def test_what_we_do_not_read_is_refused_by_name(tmp_path: Path) -> None:
    wanted = {
        "version 1": "GGUF version 1",
        "big-endian": "big-endian GGUF file (version 3)",
        "removed tensor type": "type 4, Q4_2, which ggml has removed",
        "unknown tensor type": "type 99",
        "nested array": "holds arrays",
    }
    path = tmp_path / "other.gguf"
    for name, words in wanted.items():
        path.write_bytes(BROKEN[name][1])
        with pytest.raises(UnsupportedFileError, match=re.escape(words)):
            ModelFile.open(path)


@pytest.mark.parametrize(("kind", "count"), [(0, (64 << 20) + 1), (STRING, (4 << 20) + 1)])
def test_an_array_with_more_elements_than_any_model_has_is_refused(
    tmp_path: Path, kind: int, count: int
) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(gguf(keys=(array("k", kind, count, b""),)))
    os.truncate(path, 1 << 30)  # sparse: every element would fit
    with pytest.raises(GgufError, match="elements are allowed") as caught:
        ModelFile.open(path)
    assert caught.value.rule == "array length"


def test_odd_but_allowed_places_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    entries = (entry("b", (8,), 0, 64), entry("a", (8,), 0, 0))
    path.write_bytes(gguf(entries=entries, data=DATA * 3 + b"tail"))
    with ModelFile.open(path) as file:
        assert len(file.warnings) == 2
        assert "'b' lies at byte" in file.warnings[0]
        assert "4 bytes follow the last tensor" in file.warnings[1]


def test_missing_padding_after_the_last_tensor_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "unpadded.gguf"
    path.write_bytes(gguf(entries=(F32_FOUR,), data=bytes(16)))
    with ModelFile.open(path) as file:
        assert file.warnings == ()
        assert file.floats("t").tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    "strings",
    [
        pytest.param(u64(0) * (1 << 20), id="a million empty texts"),
        pytest.param(text("\0" * 8) * (1 << 18), id="texts of zero bytes"),
        pytest.param((text("ab") + text("x" * 300)) * (1 << 15), id="short and long in turn"),
        pytest.param(text("x" * 70_000) * 64, id="texts longer than a window"),
        pytest.param((text("a") * 7 + text(b"\0" * 9)) * (1 << 15), id="chains that break"),
    ],
)
def test_walking_over_texts_is_quick_whatever_they_hold(tmp_path: Path, strings: bytes) -> None:
    count = 0
    position = 0
    while position < len(strings):
        position += 8 + int.from_bytes(strings[position : position + 8], "little")
        count += 1
    path = tmp_path / "texts.gguf"
    path.write_bytes(gguf(keys=(array("k", STRING, count, strings), key("after", U32, u32(7)))))
    start = time.process_time()
    with ModelFile.open(path) as file:
        assert file.metadata["after"] == 7
        seconds = time.process_time() - start
        assert b"".join(text(one) for one in file.metadata.byte_strings("k")) == strings
    assert seconds < 10  # a walk that grows with the square would take minutes


def test_folders_pipes_and_missing_files_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link_to_nothing = tmp_path / "link"
    link_to_nothing.symlink_to(tmp_path / "gone")
    for path, rule in (
        (tmp_path, "regular file"),
        (pipe, "regular file"),
        (Path("/dev/zero"), "regular file"),
        (tmp_path / "none.gguf", "readable"),
        (link_to_nothing, "readable"),
    ):
        with pytest.raises(GgufError) as caught:
            ModelFile.open(path)
        assert caught.value.rule == rule


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "real.gguf", tmp_path / "link.gguf"
    path.write_bytes(gguf(entries=(F32_FOUR,), data=DATA))
    link.symlink_to(path)
    with ModelFile.open(link) as file:
        assert list(file.tensors) == ["t"]


def test_a_file_that_shrinks_gives_an_error(tmp_path: Path) -> None:
    path = tmp_path / "shrinks.gguf"
    path.write_bytes(gguf(keys=(key("k", U32, u32(5)),), entries=(F32_FOUR,), data=DATA))
    with ModelFile.open(path, mapped=False) as file:
        os.truncate(path, 40)
        with pytest.raises(GgufError) as caught:
            file.packed("t")
        assert caught.value.rule == "unchanged"
        os.truncate(path, 26)
        with pytest.raises(GgufError) as caught:
            _ = file.metadata["k"]
        assert caught.value.rule == "complete"


def test_a_file_that_is_rewritten_gives_an_error(tmp_path: Path) -> None:
    path = tmp_path / "changes.gguf"
    data = gguf(entries=(F32_FOUR,), data=DATA)
    path.write_bytes(data)
    with ModelFile.open(path, mapped=False) as file:
        path.write_bytes(data[:-1] + b"\x01")
        os.utime(path, ns=(1, 1))
        with pytest.raises(GgufError) as caught:
            file.packed("t")
        assert caught.value.rule == "unchanged"


def test_a_closed_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "closed.gguf"
    path.write_bytes(gguf(keys=(key("k", U32, u32(5)),), entries=(F32_FOUR,), data=DATA))
    with ModelFile.open(path) as file:
        rows = file.packed("t")
    assert rows.tolist() == [[0] * 16]  # the map outlives the file
    with pytest.raises(GgufError, match="is closed"):
        _ = file.metadata["k"]
    with pytest.raises(GgufError, match="is closed"):
        file.packed("t")
