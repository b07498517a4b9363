"""The choice of types is the best there is, by trying all of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.calibrate import CalibrateError, Choice, best_choices

WAYS = st.lists(
    st.builds(
        Choice,
        type=st.just("Q"),
        nbytes=st.integers(1, 5000).map(lambda n: n * 1000),
        loss=st.floats(0, 10, allow_subnormal=False),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40)
@given(
    ways=st.dictionaries(st.text("abcdef", min_size=1), WAYS, min_size=1, max_size=5),
    share=st.floats(0, 1),
)
def test_no_other_choice_within_the_size_loses_less(
    ways: dict[str, list[Choice]], share: float
) -> None:
    smallest = sum(min(one.nbytes for one in some) for some in ways.values())
    largest = sum(max(one.nbytes for one in some) for some in ways.values())
    budget = smallest + int(share * (largest - smallest))
    chosen = best_choices(ways, budget_bytes=budget)
    assert chosen.keys() == ways.keys()
    assert sum(one.nbytes for one in chosen.values()) <= budget
    every = itertools.product(*ways.values())
    inside = [some for some in every if sum(one.nbytes for one in some) <= budget]
    best = min(sum(one.loss for one in some) for some in inside)
    highest = max(one.loss for some in ways.values() for one in some)
    assert sum(one.loss for one in chosen.values()) <= best + 1e-3 * highest + 1e-9


def test_a_size_that_cannot_be_is_refused_with_what_can() -> None:
    ways = {"a": [Choice("Q4_0", 100, 1.0)], "b": [Choice("Q4_0", 50, 1.0)]}
    with pytest.raises(CalibrateError, match="150"):
        best_choices(ways, budget_bytes=149)
