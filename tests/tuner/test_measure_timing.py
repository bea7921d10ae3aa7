"""Interleaved timing and the intervals of its ratios."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle, repeat
from math import comb
from typing import Any

import numpy as np
import pytest

from tuner.measure import timing
from tuner.measure.protocol import Backend, Peak, Repeats
from tuner.measure.timing import interleave, log_ratio, median, ratio


class Scripted:
    """A device on which each call takes the next of given times; nothing else takes time."""

    device = "scripted"

    def __init__(self, times_ms: Iterable[float]) -> None:
        self._times = iter(times_ms)
        self._now_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def time_call(self, call: Callable[[], Any]) -> tuple[float, float]:
        call()
        spent = next(self._times)
        self._now_s += spent / 1e3
        return spent, spent + 0.5

    def peak(self, call: Callable[[], Any]) -> tuple[Any, Peak]:
        return call(), Peak(0, 0, 0)

    def settle(self) -> None:
        pass

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def is_fatal(self, error: BaseException) -> bool:
        return False

    def turn(self, most_s: float) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def contention(self) -> float:
        return 0.0

    def environment(self) -> Mapping[str, str]:
        return {"device": self.device}


class Runs:
    """Callables that note in which order they ran."""

    def __init__(self, *names: str) -> None:
        self.order: list[str] = []
        self.calls = {name: self._noting(name) for name in names}

    def _noting(self, name: str) -> Callable[[], None]:
        return lambda: self.order.append(name)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[float]], Scripted]:
    """Makes a scripted device whose time is also what the rounds' budget is counted in."""

    def make(times_ms: Iterable[float]) -> Scripted:
        backend = Scripted(times_ms)
        monkeypatch.setattr(timing, "time", backend)
        return backend

    return make


Make = Callable[[Iterable[float]], Scripted]


def enclosed(count: int) -> tuple[int, int]:
    """Which of ``count`` sorted pairs bound the interval, counted from 1."""
    found = ratio([float(k) for k in range(1, count + 1)], [1.0] * count)
    return int(found.low), int(found.high)


def coverage(count: int, low: int, high: int) -> float:
    """The probability that the median lies from the low-th to the high-th of sorted draws: that
    at least ``low`` and fewer than ``high`` of them lie below it."""
    return sum(comb(count, below) for below in range(low, high)) / (1 << count)


def test_ten_pairs_are_bounded_by_the_second_and_the_ninth() -> None:
    assert enclosed(10) == (2, 9)
    values = [1.3, 0.9, 1.0, 1.1, 0.8, 1.25, 0.95, 1.05, 1.15, 0.85]
    found = ratio(values, [1.0] * 10)
    assert (found.median, found.low, found.high) == (1.025, 0.85, 1.25)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_pairs_give_the_full_range(count: int) -> None:
    assert enclosed(count) == (1, count)


@pytest.mark.parametrize("count", range(6, 61))
def test_the_interval_is_the_narrowest_that_is_sure_enough(count: int) -> None:
    low, high = enclosed(count)
    assert low + high == count + 1
    assert coverage(count, low, high) >= 0.95
    if high - low > 2:
        assert coverage(count, low + 1, high - 1) < 0.95


@pytest.mark.parametrize("count", [6, 10, 15, 25, 40])
def test_the_interval_holds_the_true_median_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        # skewed, as times are; the ratio's true median is 2
        draws = 2.0 * random.lognormal(0.0, 0.5, count)
        found = ratio(draws.tolist(), [1.0] * count)
        held += found.low <= 2.0 <= found.high
    assert held / 2000 >= 0.94


def test_a_ratio_is_taken_pair_by_pair() -> None:
    # both drift by a factor of 100; each pair's ratio is still 2
    found = ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError):
        ratio([1.0, 2.0], [1.0])


def test_an_even_count_has_the_mean_of_its_middle_as_median() -> None:
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert median([5.0]) == 5.0


def test_rounds_alternate_in_direction(scripted: Make) -> None:
    runs = Runs("a", "b", "c")
    backend: Backend = scripted(repeat(1.0))
    interleave(backend, runs.calls, Repeats(warmup=0, repeats=4, most=4))
    assert "".join(runs.order) == "abc" "cba" "abc" "cba"


def test_each_time_is_noted_with_its_own_call_and_warmups_are_not(scripted: Make) -> None:
    runs = Runs("a", "b")
    # two warm-up rounds, then a b, b a, a b
    backend = scripted([90.0, 91.0, 92.0, 93.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = interleave(backend, runs.calls, Repeats(warmup=2, repeats=3, most=3))
    assert "".join(runs.order) == "abab" "abbaab"
    assert list(found) == ["a", "b"]
    assert found["a"].decisive_ms == (1.0, 4.0, 5.0)
    assert found["b"].decisive_ms == (2.0, 3.0, 6.0)
    assert found["a"].wall_ms == (1.5, 4.5, 5.5)
    assert found["b"].plain() == {"decisive_ms": [2.0, 3.0, 6.0], "wall_ms": [2.5, 3.5, 6.5]}


def test_tight_ratios_end_the_rounds(scripted: Make) -> None:
    # both drift, their ratio does not
    backend = scripted(value * 1.5**turn for turn in range(100) for value in (1.0, 1.0))
    found = interleave(backend, Runs("a", "b").calls, Repeats(warmup=0, repeats=3, most=50))
    assert len(found["a"].decisive_ms) == 3


def test_loose_ratios_go_on_to_the_most(scripted: Make) -> None:
    # a b, b a, ...: the ratio is 2 and 1/2 in turns
    backend = scripted(cycle([1.0, 2.0]))
    found = interleave(backend, Runs("a", "b").calls, Repeats(warmup=0, repeats=3, most=17))
    assert len(found["a"].decisive_ms) == len(found["b"].decisive_ms) == 17


def test_every_ratio_must_be_tight(scripted: Make) -> None:
    # the second of three is steady, the third is not
    backend = scripted(cycle([1.0, 1.0, 2.0]))
    calls = Runs("a", "b", "c").calls
    found = interleave(backend, calls, Repeats(warmup=0, repeats=2, most=9))
    assert len(found["b"].decisive_ms) == 9


def test_no_round_starts_when_the_time_is_spent(scripted: Make) -> None:
    backend = scripted(cycle([100.0, 200.0]))
    repeats = Repeats(warmup=5, repeats=2, most=1000, budget_s=1.0)
    found = interleave(backend, Runs("a", "b").calls, repeats)
    # rounds of 0.3 s: after the fourth, 1.2 s have passed; warm-ups are not counted
    assert len(found["a"].decisive_ms) == 4


def test_the_least_number_of_rounds_outlasts_the_time_by_up_to_threefold(scripted: Make) -> None:
    # rounds of 0.375 s, a number that sums without rounding
    def rounds(budget_s: float) -> int:
        repeats = Repeats(warmup=0, repeats=9, most=9, budget_s=budget_s)
        found = interleave(scripted(cycle([125.0, 250.0])), Runs("a", "b").calls, repeats)
        return len(found["a"].decisive_ms)

    assert rounds(2.0) == 9
    # three times as much is 1.5 s: only the fifth round passes it
    assert rounds(0.5) == 5
    assert rounds(0.001) == 2


def test_one_call_alone_is_timed_as_often_as_asked(scripted: Make) -> None:
    found = interleave(scripted([5.0, 1.0, 3.0]), Runs("a").calls, Repeats(0, 3, 50))
    assert found["a"].decisive_ms == (5.0, 1.0, 3.0)


def test_short_calls_are_made_several_times_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs("long", "short")
    # warm-up: 4 ms and 0.5 ms on the wall clock's half a millisecond more
    device = Scripted([4.0, 0.0, 4.0, 8.0, 8.0, 4.0])
    monkeypatch.setattr("tuner.measure.timing.time.monotonic", device.monotonic)
    found = interleave(device, runs.calls, Repeats(1, 2, 2, least_ms=2.0))
    assert Counter(runs.order) == {"long": 1 + 2, "short": 1 + 2 * 4}
    assert found["long"].decisive_ms == (4.0, 4.0)
    assert found["short"].decisive_ms == (2.0, 2.0), "the mean of four calls"


def test_a_settled_measurement_is_preceded_by_an_unmeasured_call() -> None:
    runs = Runs("a", "b")
    interleave(Scripted(repeat(1.0)), runs.calls, Repeats(0, 2, 2, settled=True))
    assert runs.order == ["a", "a", "b", "b", "b", "b", "a", "a"]


def test_the_log_ratio_is_that_of_the_faster_halves() -> None:
    found = log_ratio([4.0, 4.0, 90.0, 50.0], [2.0, 2.0, 2.0, 70.0])
    assert found.value == pytest.approx(math.log(2))
    assert found.halves == pytest.approx((math.log(2), math.log(2)))
    assert found.noise == pytest.approx(0.0)


def test_the_noise_is_that_of_the_value() -> None:
    random = np.random.default_rng(0)
    values, noises = [], []
    for _ in range(2000):
        times = np.exp(random.normal(0, 0.05, (2, 8)))
        found = log_ratio(times[0].tolist(), times[1].tolist())
        values.append(found.value)
        noises.append(found.noise)
    assert np.sqrt(np.mean(np.square(noises))) == pytest.approx(np.std(values), rel=0.15)
