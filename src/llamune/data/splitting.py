"""Training and validation records: seeded, and the same records whatever their order in memory."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from llamune.data.errors import DataError
from llamune.data.records import Record

__all__ = ["split"]


def split(
    records: Sequence[Record],
    *,
    validation: float = 0.1,
    seed: int = 0,
    groups: Sequence[int] | None = None,
) -> tuple[list[Record], list[Record]]:
    """Part records into training and validation.

    Records of one group stay together; each file gives its share.

    Args:
        records: what to part; both results keep its order.
        validation: the share for validation, at least 0 and below 1.
        seed: decides which records.
        groups: a group number for each record; default: records with one question are one.

    Raises:
        DataError: the share is out of range, or a side would be empty.
    """
    if not 0 <= validation < 1:
        raise DataError(f"validation share {validation}: at least 0, below 1")
    if validation == 0:
        return list(records), []
    names = [str(group) for group in groups] if groups else [group_of(r) for r in records]
    members: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        members[name].append(place)
    by_source: dict[str, list[list[int]]] = defaultdict(list)
    for places in members.values():
        by_source[records[places[0]].source.path].append(places)
    held: set[int] = set()
    for path in sorted(by_source):
        held |= drawn(by_source[path], records, validation, seed)
    training = [record for place, record in enumerate(records) if place not in held]
    validating = [record for place, record in enumerate(records) if place in held]
    if not training or not validating:
        raise DataError(
            f"{len(records)} records in {len(members)} groups are too few to set "
            f"{validation:.0%} aside",
            hint="give more examples, or a validation file of your own",
        )
    return training, validating


def drawn(groups: list[list[int]], records: Sequence[Record], share: float, seed: int) -> set[int]:
    """Return the places of one file to set aside: whole groups, in the order a seed gives."""
    n_wanted = round(sum(map(len, groups)) * share)
    taken: set[int] = set()
    for places in sorted(groups, key=lambda group: rank(records[group[0]], seed)):
        if len(taken) + len(places) <= n_wanted:
            taken.update(places)
    return taken


def rank(record: Record, seed: int) -> bytes:
    """Return a record's place in the order that a seed gives; set by its words alone."""
    return hashlib.sha256(f"{seed}\0{record.whole}".encode("utf-8", "surrogatepass")).digest()


def group_of(record: Record) -> str:
    """Return what records must share to stay on one side: the question, or the text."""
    return record.question or record.whole
