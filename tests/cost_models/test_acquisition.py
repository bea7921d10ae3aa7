"""Which plans are picked, on draws made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.acquisition import Draws, Pick, fastest, lowest

COUNT = 4000


def columns(*means_and_spreads: tuple[float, float]) -> Draws:
    draw = np.random.default_rng(0)
    return np.column_stack([draw.normal(m, s, COUNT) for m, s in means_and_spreads])


def places(picks: list[Pick]) -> list[int]:
    return [pick.place for pick in picks]


def test_the_expected_gain_is_that_of_the_normal_distribution() -> None:
    (pick,) = fastest(columns((9.0, 2.0)), [0], 10.0, 1, 0.0)
    # E max(0, 10 - X) with X normal: d Phi(d/s) + s phi(d/s), d = 1, s = 2
    ratio = 0.5
    density = math.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    share = 0.5 * (1 + math.erf(ratio / math.sqrt(2)))
    assert pick.gain == pytest.approx((share + 2 * density) / 10, rel=0.03)


def test_an_uncertain_plan_goes_before_one_that_is_surely_no_better() -> None:
    draws = columns((10.0, 0.01), (10.5, 2.0))
    assert places(fastest(draws, [0, 1], 10.0, 1, 0.005)) == [1]


def test_picking_ends_where_less_is_to_be_gained_than_runs_can_tell() -> None:
    draws = columns((9.99, 0.01), (10.2, 0.05), (12.0, 0.1))
    assert fastest(draws, [0, 1, 2], 10.0, 3, 0.005) == []
    assert places(fastest(draws, [0, 1, 2], 10.0, 3, 0.0001)) == [0]


def test_a_batch_does_not_bet_on_one_thing_twice() -> None:
    draw = np.random.default_rng(0)
    shared = draw.normal(0, 1.0, COUNT)
    # two plans that are fast or slow together, and one that is a little slower and on its own
    draws = np.column_stack([9 + shared, 9.01 + shared, 9.2 + draw.normal(0, 1.0, COUNT)])
    assert places(fastest(draws, [0, 1, 2], 10.0, 2, 0.0)) == [0, 2]


def test_without_a_measured_plan_the_fastest_is_picked_first() -> None:
    picks = fastest(columns((12.0, 0.1), (9.0, 0.1), (10.0, 0.1)), [0, 1, 2], math.inf, 3, 0.005)
    assert places(picks) == [1]
    assert picks[0].gain == 1.0


def test_nothing_allowed_is_nothing_picked() -> None:
    draws = columns((1.0, 0.1))
    assert fastest(draws, [], 10.0, 3, 0.0) == []
    assert lowest(draws, [5], [], math.inf, 10.0, 3, 0.0) == []


def test_the_lowest_peak_counts_by_the_chance_that_it_is_fast_enough() -> None:
    draws = columns((20.0, 0.1), (9.0, 0.1), (9.0, 0.1))
    # the first is lowest and surely too slow; the last saves nothing
    picks = lowest(draws, [10, 50, 100], [0, 1, 2], 100.0, 15.0, 3, 0.005)
    assert places(picks) == [1]
    assert picks[0].gain == pytest.approx(0.5)


def test_a_doubtful_lowest_plan_brings_a_second_one_along() -> None:
    draws = columns((15.0, 1.0), (9.0, 0.1))
    picks = lowest(draws, [10, 50], [0, 1], 100.0, 15.0, 3, 0.005)
    assert places(picks) == [0, 1]
    assert [pick.gain for pick in picks] == pytest.approx([0.45, 0.25], abs=0.02)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_only_allowed_plans_are_picked_and_each_once(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    numbers = st.lists(st.floats(1, 20), min_size=count, max_size=count)
    means, spreads, peaks = data.draw(numbers), data.draw(numbers), data.draw(numbers)
    allowed = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    best = data.draw(st.sampled_from([math.inf, 5.0, 15.0]))
    most = data.draw(st.integers(1, 4))
    draws = columns(*zip(means, spreads, strict=True))[:64]
    for picks in (
        fastest(draws, allowed, best, most, 0.0),
        lowest(draws, [int(p) for p in peaks], allowed, best, 12.0, most, 0.0),
    ):
        found = places(picks)
        assert len(set(found)) == len(found) <= most
        assert set(found) <= set(allowed)
        assert all(pick.gain > 0 for pick in picks)
    gains = [pick.gain for pick in fastest(draws, allowed, best, most, 0.0)]
    assert gains == sorted(gains, reverse=True)
