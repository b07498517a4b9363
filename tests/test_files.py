"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llamune.errors import LlamuneError
from llamune.files import new_file, new_folder, sha256_of, write_text


def test_a_new_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    with new_file(target) as out:
        out.write(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_file(tmp_path / "file.bin") as out:
        out.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_replaced(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(LlamuneError, match="exists already"):
        write_text(target, "new")
    assert target.read_text() == "old"
    write_text(target, "new", replace=True)
    assert target.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with pytest.raises(LlamuneError, match="exists already"), new_file(target) as out:
        out.write(b"ours")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "run").exists()
    assert (tmp_path / "run" / "a").read_text() == "1"
    with pytest.raises(RuntimeError), new_folder(tmp_path / "broken") as folder:
        (folder / "a").write_text("1")
        raise RuntimeError
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_sha256_of_counts_every_byte(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    content = bytes(range(256)) * 50_000
    target.write_bytes(content)
    seen: list[int] = []
    assert sha256_of(target, seen.append) == hashlib.sha256(content).hexdigest()
    assert sum(seen) == len(content)
