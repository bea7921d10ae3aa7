"""Which rung suits the free memory: down where it is short, up when it is back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuner.runtime.ladder import HEADROOM, Ladder


def ladder(*peaks: int) -> Ladder:
    made = Ladder()
    for peak in peaks:
        made.add(peak)
    return made


def test_the_fastest_rung_that_fits_is_taken() -> None:
    made = ladder(1000, 500, 100)
    assert made.pick(10_000) == 0
    assert made.pick(int(1000 * HEADROOM)) == 0
    assert made.pick(1000) == 1, "a plan wants some room above its peak"
    assert made.pick(500) == 2
    assert made.pick(100) is None


def test_a_rung_that_ran_out_wants_more_than_it_had() -> None:
    made = ladder(1000, 500, 100)
    made.ran_out(0, 2000, 2000)
    assert made.pick(2000) == 1
    assert made.pick(2001) == 0, "and is taken again where there is more"
    made.ran_out(1, 3000, 2500)
    assert made.pick(2500) == 2, "what is above needs as much at least"
    assert made.pick(2501) == 0


def test_memory_that_was_taken_meanwhile_says_nothing_of_the_rung() -> None:
    made = ladder(1000, 500)
    made.ran_out(0, 5000, 300)
    assert made.pick(5000) == 0


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**6), st.integers(0, 10**6))),
    st.lists(st.integers(0, 2 * 10**6), min_size=2, max_size=2),
)
def test_more_memory_never_means_a_lower_rung(
    peaks: list[int], failures: list[tuple[int, int, int]], free: list[int]
) -> None:
    made = ladder(*sorted(peaks, reverse=True))
    for place, before, after in failures:
        made.ran_out(min(place, len(peaks) - 1), before, after)
        lasting = min(before, after)
        taken = made.pick(lasting)
        assert taken is None or taken > min(place, len(peaks) - 1), "the same is not tried again"
    less, more = (made.pick(one) for one in sorted(free))
    assert less is None or (more is not None and more <= less)
