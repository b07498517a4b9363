"""Packing loses nothing and mixes nothing; parting is seeded and keeps groups together."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamune.data import (
    IGNORED,
    DataError,
    Message,
    Record,
    Rendered,
    Source,
    by_length,
    filled_length,
    fingerprint,
    pack,
    padding_share,
    prepare,
    split,
)
from tests.data.fakes import CHATML, ByteTokens

lengths = st.lists(st.integers(1, 40), max_size=60)


def rendered(sizes: list[int]) -> list[Rendered]:
    return [
        Rendered([place] * size, [True] * size, False, size) for place, size in enumerate(sizes)
    ]


@given(lengths)
def test_every_record_is_in_one_row_whole_with_its_own_places(sizes: list[int]) -> None:
    rows = pack(rendered(sizes), 40)
    seen = []
    for row in rows:
        assert len(row.ids) <= 40
        assert len(row.ids) == len(row.labels) == len(row.position_ids) == len(row.segment_ids)
        at = 0
        for segment, size in enumerate(row.lengths):
            record = row.ids[at : at + size]
            assert set(record) == {record[0]}
            assert row.position_ids[at : at + size] == list(range(size))
            assert row.segment_ids[at : at + size] == [segment] * size
            assert row.labels[at : at + size] == [IGNORED, *record[1:]]
            seen.append((record[0], size))
            at += size
    assert sorted(seen) == list(enumerate(sizes))


@given(lengths)
def test_no_two_rows_would_fit_in_one(sizes: list[int]) -> None:
    filled = sorted(len(row.ids) for row in pack(rendered(sizes), 40))
    assert all(left + right > 40 for left, right in itertools.pairwise(filled))


def test_a_record_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="41 tokens in rows of 40"):
        pack(rendered([41]), 40)


def test_padding_share() -> None:
    assert padding_share([[8, 32], [24]]) == 1 - 64 / 88
    assert padding_share([[8], [32], [24]]) == 0
    assert padding_share([[5]]) == 3 / 8
    assert padding_share([]) == 0


@given(st.integers(1, 1 << 20))
def test_rows_are_filled_up_a_little(n_tokens: int) -> None:
    filled = filled_length(n_tokens)
    assert filled % 8 == 0
    assert 0 <= filled - n_tokens < max(8, n_tokens / 16)
    assert filled_length(filled) == filled


def test_few_lengths_are_left() -> None:
    assert len({filled_length(n_tokens) for n_tokens in range(513, 1025)}) == 16


@given(lengths, st.integers(1, 8))
def test_batches_by_length_hold_each_record_once(sizes: list[int], batch: int) -> None:
    batches = by_length(sizes, batch)
    assert sorted(place for part in batches for place in part) == list(range(len(sizes)))
    flat = [sizes[place] for part in batches for place in part]
    assert flat == sorted(flat)


def record(
    question: str, answer: str = "x", *, path: str = "a.json", weight: float = 1.0, number: int = 1
) -> Record:
    return Record(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ),
        source=Source(path=path, number=number),
        weight=weight,
    )


MANY = [record(f"q{place // 2}", str(place), path=f"{place % 3}.json") for place in range(120)]


def test_a_split_is_seeded_and_complete() -> None:
    training, validating = split(MANY, validation=0.2, seed=3)
    assert (training, validating) == split(MANY, validation=0.2, seed=3)
    assert validating != split(MANY, validation=0.2, seed=4)[1]
    assert len(training) + len(validating) == 120
    assert 18 <= len(validating) <= 24


def test_one_question_never_stands_on_both_sides() -> None:
    training, validating = split(MANY, validation=0.3, seed=1)
    assert not {r.question for r in training} & {r.question for r in validating}


def test_given_groups_stay_together_and_every_file_gives_its_share() -> None:
    records = [record(f"q{place}", path=f"{place % 2}.json") for place in range(100)]
    groups = [place // 4 for place in range(100)]
    training, validating = split(records, validation=0.2, seed=0, groups=groups)
    of = {r.question: group for r, group in zip(records, groups, strict=True)}
    assert not {of[r.question] for r in training} & {of[r.question] for r in validating}


def test_a_split_does_not_depend_on_where_the_file_lies() -> None:
    moved = [record(r.question, r.answer, path="/elsewhere.json") for r in MANY]
    here = [record(r.question, r.answer, path="here.json") for r in MANY]
    sides = [[r.answer for r in split(x, validation=0.2, seed=0)[1]] for x in (moved, here)]
    assert sides[0] == sides[1]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(DataError, match="validation share"):
        split(MANY, validation=share)


def test_too_few_records_to_part_are_refused() -> None:
    with pytest.raises(DataError, match="too few"):
        split(MANY[:2], validation=0.5)


def test_no_validation_at_all_is_possible() -> None:
    assert split(MANY, validation=0) == (MANY, [])


def test_the_fingerprint_names_ids_and_masks() -> None:
    first = Rendered([1, 2], [False, True], False, 2)
    assert fingerprint([first]) == fingerprint([Rendered([1, 2], [False, True], True, 9)])
    others = [
        [Rendered([1, 3], [False, True], False, 2)],
        [Rendered([1, 2], [True, True], False, 2)],
        [first, first],
        [Rendered([1], [False], False, 1), Rendered([2], [True], False, 1)],
        [],
    ]
    assert len({fingerprint(x) for x in [[first], *others]}) == 6


def test_preparing_counts_what_was_cut_and_what_has_nothing_left_to_learn() -> None:
    records = [record("short", "yes"), record("q" * 200, "lost"), record("q", "a" * 100)]
    data = prepare(records, CHATML, ByteTokens(), max_length=64)
    assert (data.n_records, data.n_cut, data.n_untrained) == (3, 2, 1)
    assert len(data.rendered) == 2
    assert data.max_length == 64
    assert max(data.lengths) == 64


def test_the_default_length_is_the_longest_record_within_the_context() -> None:
    records = [record("q", "a" * 100), record("q", "b")]
    assert prepare(records, CHATML, ByteTokens()).n_cut == 0
    small = prepare(records, CHATML, ByteTokens(), context_length=50)
    assert (small.max_length, small.n_cut) == (50, 1)


def test_long_plain_text_is_laid_in_pieces_and_nothing_is_lost() -> None:
    text = Record(source=Source(path="a", number=1), text="abc" * 50)
    data = prepare([text], CHATML, ByteTokens(), max_length=40)
    assert (data.n_cut, [len(r.ids) for r in data.rendered]) == (0, [40, 40, 40, 31])


def test_a_last_piece_of_one_token_teaches_nothing_and_is_left_out() -> None:
    text = Record(source=Source(path="a", number=1), text="abc" * 50)
    whole = prepare([text], CHATML, ByteTokens(), max_length=200)
    n_tokens = len(whole.rendered[0].ids)
    data = prepare([text], CHATML, ByteTokens(), max_length=n_tokens - 1)
    assert [len(r.ids) for r in data.rendered] == [n_tokens - 1]


def test_weights_repeat_records_and_draw_shares_by_seed() -> None:
    records = [record(f"q{i}", weight=1.5, number=i) for i in range(400)]
    data = prepare(records, CHATML, ByteTokens(), seed=5)
    assert 560 < len(data.rendered) < 640
    assert data.fingerprint == prepare(records, CHATML, ByteTokens(), seed=5).fingerprint
    assert data.fingerprint != prepare(records, CHATML, ByteTokens(), seed=6).fingerprint


def test_a_record_that_cannot_be_rendered_is_named() -> None:
    class Refusing:
        text = ""

        def render(self, messages: object, **options: object) -> str:
            raise DataError("no system turn, please")

    bad = record("q", path="b.jsonl", number=7)
    with pytest.raises(DataError, match=r"b\.jsonl: record 7: no system turn"):
        prepare([bad], Refusing(), ByteTokens())


def test_preference_pairs_are_trained_on_only_when_asked() -> None:
    pair = replace(record("q"), rejected=(Message(role="assistant", content="bad"),))
    with pytest.raises(DataError, match=r"a\.json: record 1 is a preference pair"):
        prepare([pair], CHATML, ByteTokens())
    assert prepare([pair], CHATML, ByteTokens(), chosen=True).n_records == 1


def test_answers_that_are_labelled_bad_are_refused() -> None:
    with pytest.raises(DataError, match="labelled bad"):
        prepare([replace(record("q"), label=False)], CHATML, ByteTokens())


class Counting(ByteTokens):
    """Counts how often it is asked to encode."""

    n_calls = 0

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        Counting.n_calls += 1
        return super().encode(text, parse_special=parse_special)


def test_rendered_data_is_cached_and_damage_is_rendered_anew(tmp_path: Path) -> None:
    Counting.n_calls = 0
    first = prepare(MANY, CHATML, Counting(), cache=tmp_path)
    n_first = Counting.n_calls
    assert n_first == len(MANY)
    assert prepare(MANY, CHATML, Counting(), cache=tmp_path) == first
    assert Counting.n_calls == n_first
    assert prepare(MANY, CHATML, Counting(), cache=tmp_path, train_on="all") != first
    assert prepare(MANY[1:], CHATML, Counting(), cache=tmp_path) != first
    n_before = Counting.n_calls
    for path in tmp_path.iterdir():
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        path.write_bytes(raw)
    assert prepare(MANY, CHATML, Counting(), cache=tmp_path) == first
    assert Counting.n_calls == n_before + n_first
