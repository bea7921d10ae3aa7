"""Which of the confirmed plans are kept."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from search_space.plan import Choice, Plan, Region
from tuner.database import PlanRow
from tuner.frontier import MOST, NOISE, best_within, finalists, frontier, thinned

FIRST, SECOND = Region((10, 11), (0, 0)), Region((20, 21), (0, 0))
UNCHANGED = Plan("f")


def row(peak: int, ratio: float, *choices: Choice, within: float = 0.004) -> PlanRow:
    """A row whose interval is this wide to either side, relative."""
    low, high = ratio * (1 - within), ratio * (1 + within)
    return PlanRow(Plan("f", choices), peak, peak, 10 * ratio, ratio, low, high)


def test_nothing_has_no_frontier() -> None:
    assert frontier([]) == ()
    assert best_within([], None) is None
    assert best_within([], 10) is None


def test_dominated_rows_are_dropped() -> None:
    low, middle, high = row(10, 1.5), row(20, 1.2), row(30, 1.0)
    slower, larger, both = row(20, 1.6), row(31, 1.2), row(40, 2.0)
    assert frontier([both, high, slower, low, larger, middle]) == (low, middle, high)


@given(st.integers(0, 2**45), st.integers(0, 2**45), st.integers(0, 2**45))
@example(350240, 348160, 348160)  # (350239.99999999994 in floating point)
def test_what_was_measured_beyond_the_prediction_is_expected_again(
    peak: int, predicted: int, there: int
) -> None:
    one = replace(row(peak, 1.0), predicted_bytes=predicted)
    assert one.peak_where(predicted) == max(peak, predicted) or not predicted
    assert one.peak_where(there) >= there
    if peak > predicted > 0:
        found = one.peak_where(there)
        assert found - 1 < there * Fraction(peak, predicted) <= found


def test_a_compiled_plan_keeps_its_budget_uncompiled_too() -> None:
    """It runs so where nothing can be compiled."""
    plain = row(20, 1.0)
    compiled = replace(plain, plan=UNCHANGED.as_compiled(), peak_bytes=11, ratio=0.5)
    assert compiled.needed_bytes == 20 and plain.needed_bytes == 20
    assert replace(compiled, peak_bytes=25).needed_bytes == 25
    low = row(12, 1.5)
    assert best_within([plain, compiled, low], 19) == low
    assert best_within([plain, compiled, low], 20) == compiled
    assert compiled not in finalists([plain, compiled, low], [15], 1)
    # so it takes the place of no plan that takes less uncompiled, though that is slower
    assert frontier([compiled, low]) == (low, compiled)
    assert best_within([compiled, low], None) == low
    assert thinned([compiled, low]) == (low, compiled)


def test_a_higher_peak_must_be_faster_by_more_than_the_noise() -> None:
    low = row(10, 1.0)
    assert frontier([low, row(20, 1.0)]) == (low,)
    assert frontier([low, row(20, 1.0 - 0.9 * NOISE)]) == (low,)
    faster = row(20, 1.0 - 1.1 * NOISE)
    assert frontier([low, faster]) == (low, faster)
    assert frontier([low, faster], noise=0.5) == (low,)


def test_small_steps_add_up() -> None:
    # each is within the noise of the one before, but the third is not of the first
    rows = [row(10, 1.0), row(20, 0.985), row(30, 0.97)]
    assert frontier(rows) == (rows[0], rows[2])


def test_of_equals_the_plan_with_fewer_choices_is_kept() -> None:
    none, one = row(10, 1.0), row(10, 1.0, Choice((FIRST,), 4))
    two = row(10, 1.0, Choice((FIRST,), 4), Choice((SECOND,), 4))
    assert frontier([two, one]) == (one,)
    assert frontier([two, none, one]) == (none,)


def test_of_equals_the_plan_with_larger_chunks_is_kept() -> None:
    small, large = row(10, 1.0, Choice((FIRST,), 4)), row(10, 1.0, Choice((FIRST,), 8))
    assert frontier([small, large]) == (large,)
    assert best_within([small, large], 10) == large


def test_of_equals_the_earlier_region_is_kept() -> None:
    early, late = row(10, 1.0, Choice((FIRST,), 4)), row(10, 1.0, Choice((SECOND,), 4))
    assert frontier([late, early]) == (early,)


def test_a_budget_takes_the_fastest_that_fits() -> None:
    rows = [row(10, 1.5), row(20, 1.2), row(30, 1.0)]
    assert best_within(rows, 30) == rows[2]
    assert best_within(rows, 29) == rows[1]
    assert best_within(rows, 10) == rows[0]
    assert best_within(rows, 9) is None


def test_a_plan_that_may_be_faster_is_measured_again() -> None:
    # after few runs these are tied, and the lower peak is the budget's own
    low, fast = row(10, 1.05, within=0.05), row(20, 1.02, within=0.01)
    high, slow = row(40, 1.0), row(30, 1.04)
    rows = [low, fast, slow, high]
    assert best_within(rows, 30) == low
    assert frontier(rows) == (low,)
    assert set(finalists(rows, [30, None], 8)) == {low, fast, high}
    # closely measured, it is the winner
    again = [row(10, 1.05), row(20, 1.02)]
    assert best_within(again, 30) == again[1]


def test_finalists_are_few_but_every_budgets_own_is_among_them() -> None:
    rows = [row(10 * k, 3.0 - 0.1 * k) for k in range(1, 15)]
    limits = [None, *(10 * k for k in range(1, 11))]
    found = finalists(rows, limits, 3)
    assert set(found) == {best_within(rows, limit) for limit in limits}
    assert len(finalists(rows, [None], 3)) == 3
    assert finalists([], [None, 10], 3) == ()


def test_no_winner_is_crowned_whose_interval_overlaps_a_lower_peaks() -> None:
    def pair(within: float, faster: float) -> list[PlanRow]:
        return [row(10, 1.0, within=within), row(20, faster, within=within)]

    known, unknown = pair(0.01, 0.95), pair(0.04, 0.95)
    assert (best_within(known, 20), frontier(known)) == (known[1], tuple(known))
    assert (best_within(unknown, 20), frontier(unknown)) == (unknown[0], (unknown[0],))
    # however poorly it was measured, a large difference is one
    large = pair(0.4, 0.85)
    assert (best_within(large, 20), frontier(large)) == (large[1], tuple(large))


def test_no_budget_takes_the_lowest_peak() -> None:
    rows = [row(30, 1.0), row(10, 1.5), row(20, 1.2)]
    assert best_within(rows, None) == rows[1]


REGIONS = (FIRST, SECOND, Region((10, 11), (1, 1)), Region((10, 11), (0, 1)))
"""The third and fourth own the first one's nodes, and slice them at other dimensions."""


@st.composite
def rows(draw: st.DrawFn) -> PlanRow:
    """Rows that often tie: few peaks, ratios in steps of half the noise or finer."""
    ratio = draw(st.integers(1, 400).map(lambda n: n / 100) | st.floats(0.05, 3.0))
    region = draw(st.sampled_from((None, *REGIONS)))
    choices = () if region is None else (Choice((region,), draw(st.integers(2, 4))),)
    return row(draw(st.integers(1, 4)), ratio, *choices)


Ordered = tuple[list[PlanRow], list[PlanRow]]


@st.composite
def orders(draw: st.DrawFn) -> Ordered:
    """Rows of distinct plans, in two orders."""
    found = draw(st.lists(rows(), max_size=8, unique_by=lambda one: one.plan))
    return found, draw(st.permutations(found))


def choice(region: Region) -> Choice:
    return Choice((region,), 4)


@settings(max_examples=300, derandomize=True, deadline=None)
@example(([row(1, 1.0, choice(REGIONS[0])), row(1, 1.0, choice(REGIONS[2]))],
          [row(1, 1.0, choice(REGIONS[2])), row(1, 1.0, choice(REGIONS[0]))]))  # fmt: skip
@given(orders())
def test_the_order_of_rows_does_not_matter(both: Ordered) -> None:
    first, second = both
    assert frontier(first) == frontier(second)
    for budget in (None, 0, 1, 2, 3, 4):
        assert best_within(first, budget) == best_within(second, budget)


@settings(max_examples=300, derandomize=True, deadline=None)
@example([row(1, 0.2049), row(1, 0.1951, choice(FIRST))])
@given(st.lists(rows(), max_size=8, unique_by=lambda one: one.plan))
def test_a_frontier_ascends_in_peak_and_descends_in_time(found: list[PlanRow]) -> None:
    kept = frontier(found)
    assert all(one in found for one in kept)
    for lower, higher in pairwise(kept):
        assert lower.peak_bytes < higher.peak_bytes
        assert higher.ratio < lower.ratio * (1 - NOISE)
    assert frontier(kept) == kept


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=8, unique_by=lambda one: one.plan))
def test_nothing_dropped_is_better_by_more_than_the_noise(found: list[PlanRow]) -> None:
    # canonical order rounds ratios to hundredths, so that much more may be lost to a tie
    kept = frontier(found)
    for one in found:
        assert any(
            better.peak_bytes <= one.peak_bytes
            and better.ratio * (1 - NOISE) <= one.ratio + 0.0101
            for better in kept
        )


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(rows(), max_size=8), st.integers(0, 5))
def test_the_best_within_a_budget_is_the_fastest_that_fits(
    found: list[PlanRow], budget: int
) -> None:
    best = best_within(found, budget)
    fitting = [one for one in found if one.peak_bytes <= budget]
    assert (best is None) == (not fitting)
    if best is not None:
        assert best in fitting
        # what is as fast within the noise is a tie, and goes to the lower peak
        limit = min(one.ratio for one in fitting) * (1 + NOISE)
        assert best.ratio <= limit
        assert best.peak_bytes == min(one.peak_bytes for one in fitting if one.ratio <= limit)


def test_rows_are_given_back_as_they_are() -> None:
    odd = replace(row(10, 1.0), predicted_bytes=3, latency_ms=0.125, ratio_low=0.5, ratio_high=2.0)
    assert frontier([odd]) == (odd,)
    assert frontier([odd])[0] is odd


def test_a_thinned_frontier_keeps_what_is_needed_and_both_ends() -> None:
    rows = [row(10 * k, 2.0 - 0.1 * k) for k in range(1, 13)]
    kept = thinned(rows, [rows[6]])
    assert len(kept) == MOST
    assert {rows[0], rows[6], rows[-1]} <= set(kept)
    assert list(kept) == sorted(kept, key=lambda one: one.peak_bytes)
    assert thinned(rows[:4]) == tuple(rows[:4])
    assert thinned([]) == ()
    # needed rows stay even where they are more than that
    assert set(rows[:8]) <= set(thinned(rows, rows[:8]))


def test_a_thinned_frontier_keeps_its_corner() -> None:
    # a slope that falls steeply to (20, 1.0), and is flat from there on
    steep = [row(10 + k, 2.0 - 0.1 * k) for k in range(11)]
    flat = [row(20 + 50 * k, 1.0 - 0.001 * k) for k in range(1, 11)]
    assert steep[-1] in thinned([*steep, *flat], most=3)
