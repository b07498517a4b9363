"""How fast data is checked, and in how much memory: `llamune data check` on made-up records.

    python -m benchmarks.data_check                 # 100,000 records
    python -m benchmarks.data_check --records 10000
    python -m benchmarks.data_check --gigabytes 5   # the claim about memory

Each record is a question and an answer of ten to sixty made-up words; one in a hundred is
repeated with a small change and one in two hundred word for word. The result is asserted: the
copies are found, and nothing else. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from benchmarks._measure import measured_on, peak_resident_bytes, timed, trial

from llamune.data import check

N_WORDS = 20_000
COMMON = ["the", "of", "and", "to", "in", "is", "you", "that", "it", "for", "on", "are", "with"]
COMMON_SHARE = 0.35  # as in English
NEAR_EVERY = 100
SAME_EVERY = 200
LEAST_FOUND = 0.99


def words(rng: random.Random) -> list[str]:
    """Return made-up words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    made = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(N_WORDS)]
    n_common = round(N_WORDS * COMMON_SHARE / (1 - COMMON_SHARE))
    return made + rng.choices(COMMON, k=n_common)


def write(
    path: Path, *, n_records: int | None, n_bytes: int | None, answer_words: int = 60
) -> tuple[int, int, int]:
    """Write records until either bound; return how many, how many near copies, how many same."""
    rng = random.Random(0)
    known = words(rng)
    n_written = n_near = n_same = size = place = 0
    with path.open("w", encoding="utf-8") as out:
        while (n_records is None or n_written < n_records) and (n_bytes is None or size < n_bytes):
            question = " ".join(rng.choices(known, k=rng.randint(10, 30)))
            answer = " ".join(rng.choices(known, k=rng.randint(10, answer_words)))
            place += 1
            records = [{"prompt": f"{question}?", "completion": f"{answer}."}]
            if place % NEAR_EVERY == 0:
                records.append({"prompt": f"{question}?", "completion": f"{answer} so."})
                n_near += 1
            if place % SAME_EVERY == 1:
                records.append(records[0])
                n_same += 1
            for record in records:
                size += out.write(json.dumps(record) + "\n")
                n_written += 1
    return n_written, n_near, n_same


def main() -> None:
    """Make the file, check it in a process of its own, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--gigabytes", type=float, help="make the file this large instead")
    parser.add_argument("--answer-words", type=int, default=60, help="words an answer has at most")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # the inner process
    chosen = parser.parse_args()
    if chosen.file is not None:
        measure(chosen.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        n_bytes = int(chosen.gigabytes * 1e9) if chosen.gigabytes else None
        n_records, n_near, n_same = write(
            path,
            n_records=None if n_bytes else chosen.records,
            n_bytes=n_bytes,
            answer_words=chosen.answer_words,
        )
        found = trial("data_check", "--file", path)
        size = path.stat().st_size
    assert found["duplicate"] == n_same, found
    assert LEAST_FOUND * n_near <= found["near_duplicate"] <= n_near, (found, n_near)
    print(f"{n_records:,} records, {size / 1e9:.3f} GB: {found['seconds']:.1f} s")
    print(f"peak memory {found['peak_bytes'] / 1e9:.3f} GB")
    print(f"near copies found: {found['near_duplicate']:,} of {n_near:,}")
    result = {
        "benchmark": "data_check",
        **measured_on(),
        "n_records": n_records,
        "file_bytes": size,
        "n_near_planted": n_near,
        **found,
    }
    print(json.dumps(result))


def measure(path: Path) -> None:
    """Check one file and print figures as JSON."""
    report, seconds = timed(lambda: check([path]))
    counts = {finding.kind: finding.count for finding in report.findings}
    print(
        json.dumps(
            {
                "seconds": seconds,
                "records_per_second": report.n_records / seconds,
                "peak_bytes": peak_resident_bytes(),
                "duplicate": counts.get("duplicate", 0),
                "near_duplicate": counts.get("near_duplicate", 0),
            }
        )
    )


if __name__ == "__main__":
    main()
