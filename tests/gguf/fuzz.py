"""Coverage-guided fuzzing of the reader: `make fuzz`, or `python -m tests.gguf.fuzz -runs=10000`.

Arguments go to libFuzzer. A file that ends in anything but success or `GgufError` stops it and is
kept as `crash-…`; the corpus grows in `build/fuzz`. Needs the package atheris.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["llamune"]):
    from llamune.gguf import GgufError

from tests.gguf.hostile import seed_files, use_everything

CORPUS = Path("build/fuzz")


def main() -> None:
    """Fill the corpus with the seed files and run until told to stop."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seed_files()):
        (CORPUS / f"seed-{number}").write_bytes(data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.gguf"

        def one(data: bytes) -> None:
            path.write_bytes(data)
            try:
                use_everything(path, mapped=False)
            except GgufError as error:
                assert error.path == path
                assert error.rule

        atheris.Setup([*sys.argv, "-rss_limit_mb=2048", "-timeout=20", str(CORPUS)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
