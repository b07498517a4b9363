"""No file, whatever its bytes, does more than give one error with file, offset and rule."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from llamune.gguf import GgufError

from .hostile import mutations, seed_files, use_everything

MAX_EXTRA_BYTES = 64 << 20
MAX_SECONDS = 10.0  # of this process; a busy machine does not count


def outcome(path: Path, *, mapped: bool) -> str:
    """Return the broken rule, or `fine`."""
    start = time.process_time()
    try:
        use_everything(path, mapped=mapped)
    except GgufError as error:
        assert error.path == path
        assert error.rule
        assert str(path) in error.message
        assert error.offset is None or 0 <= error.offset <= path.stat().st_size
        return error.rule
    finally:
        assert time.process_time() - start < MAX_SECONDS
    return "fine"


def run(number: int, *, seed: int, path: Path) -> dict[str, int]:
    """Return how often each rule was broken."""
    found: dict[str, int] = {}
    for turn, data in enumerate(mutations(number, seed=seed)):
        path.write_bytes(data)
        try:
            rule = outcome(path, mapped=bool(turn % 2))
        except BaseException as error:
            keep = path.with_name(f"bad-{seed}-{turn}.gguf")
            keep.write_bytes(data)
            error.add_note(f"file {turn} of seed {seed}, kept as {keep}")
            raise
        found[rule] = found.get(rule, 0) + 1
    return found


def test_seed_files_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "seed.gguf"
    for data in seed_files():
        path.write_bytes(data)
        assert outcome(path, mapped=True) == "fine"
        assert outcome(path, mapped=False) == "fine"


def test_thousands_of_mutated_files_end_well(tmp_path: Path) -> None:
    tracemalloc.start()
    found = run(1500, seed=1, path=tmp_path / "mutated.gguf")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < MAX_EXTRA_BYTES
    assert len(found) > 12, f"the mutations reach too few rules: {found}"
    assert found["fine"] < 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_a_hundred_thousand_mutated_files_end_well(tmp_path: Path, seed: int) -> None:
    run(10_000, seed=seed, path=tmp_path / "mutated.gguf")
