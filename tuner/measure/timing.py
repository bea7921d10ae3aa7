"""Interleaved timing, so that drift cancels, and intervals that assume no distribution."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from tuner.measure.protocol import Backend, Ratio, Repeats, Samples

Call = Callable[[], Any]


def interleave(backend: Backend, calls: Mapping[str, Call], repeats: Repeats) -> dict[str, Samples]:
    """Time several calls in turns, each round in the opposite order of the last (ABBA).

    Beyond ``repeats.repeats`` rounds it goes on, up to ``repeats.most``, while there is time and
    some call's ratio to the first is not known tightly enough. Calls shorter than
    ``repeats.least_ms`` are made several times a measurement, which gives their mean. With
    ``repeats.settled`` an unmeasured call comes before each measurement: what another call left in
    caches and in the allocator is then nobody's gain or loss.
    """
    names = list(calls)
    decisive: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    once = dict.fromkeys(names, 0.0)
    for _ in range(repeats.warmup):
        for name in names:
            once[name] = backend.time_call(calls[name])[1]
    times = {name: _times(once[name], repeats.least_ms) for name in names}
    started = time.monotonic()
    rounds = 0
    while True:
        for name in names if rounds % 2 == 0 else reversed(names):
            if repeats.settled:
                backend.time_call(calls[name])
            spent, clock = backend.time_call(_several(calls[name], times[name]))
            decisive[name].append(spent / times[name])
            wall[name].append(clock / times[name])
        rounds += 1
        elapsed = time.monotonic() - started
        if elapsed > 3 * repeats.budget_s and rounds >= 2:
            break
        if rounds < repeats.repeats:
            continue
        if elapsed > repeats.budget_s or rounds >= repeats.most:
            break
        if all(
            _is_tight(ratio(decisive[name], decisive[names[0]]), repeats.tight)
            for name in names[1:]
        ):
            break
    return {name: Samples(tuple(decisive[name]), tuple(wall[name])) for name in names}


_MOST_TIMES = 100


def _times(once_ms: float, least_ms: float) -> int:
    """How often a call is made in one measurement; once where nobody knows how long it takes."""
    if once_ms <= 0 or once_ms >= least_ms:
        return 1
    return min(math.ceil(least_ms / once_ms), _MOST_TIMES)


def _several(call: Call, times: int) -> Call:
    if times == 1:
        return call

    def several() -> Any:
        result = None
        for _ in range(times):
            result = call()
        return result

    return several


def _is_tight(found: Ratio, limit: float) -> bool:
    return found.high - found.low <= limit * found.median


def median(values: Sequence[float]) -> float:
    """The median; values must not be empty."""
    return float(statistics.median(values))


def ratio(candidate: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """The median of the pairs' ratios, with the 95 % interval of a median by order statistics
    (binomial; the full range where there are fewer than six pairs)."""
    pairs = sorted(a / b for a, b in zip(candidate, baseline, strict=True))
    low, high = _median_ranks(len(pairs))
    return Ratio(median(pairs), pairs[low], pairs[high])


@dataclass(frozen=True, slots=True)
class LogRatio:
    """log(candidate / baseline) of interleaved runs.

    Attributes:
        value: from all runs.
        halves: from every other run alone, the even ones and the odd ones.
        noise: one standard deviation of ``value``, from the halves' difference.
    """

    value: float
    halves: tuple[float, float]

    @property
    def noise(self) -> float:
        return abs(self.halves[0] - self.halves[1]) / 2


def log_ratio(candidate: Sequence[float], baseline: Sequence[float]) -> LogRatio:
    """How much longer a call takes than another one, from interleaved runs.

    What disturbs a run only ever adds to it, so that the faster half of each call's runs is
    averaged. Two halves of the runs say how far that can be trusted: either's error is sqrt(2) that
    of all, their difference's twice.
    """
    return LogRatio(
        math.log(quick(candidate) / quick(baseline)),
        (
            math.log(quick(candidate[::2]) / quick(baseline[::2])),
            math.log(quick(candidate[1::2]) / quick(baseline[1::2])),
        ),
    )


def quick(values: Sequence[float]) -> float:
    """The mean of the faster half; at least a nanosecond."""
    kept = sorted(values)[: (len(values) + 1) // 2]
    return max(statistics.fmean(kept), 1e-6)


def _median_ranks(count: int, level: float = 0.95) -> tuple[int, int]:
    """Ranks of the order statistics that enclose the median with at least this probability."""
    tail = 0.0
    rank = 0
    while rank < count // 2:
        tail += comb(count, rank) / 2**count
        if 2 * tail > 1 - level:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return rank, count - 1 - rank
