"""Interleaved timing, so that drift cancels, and intervals that assume no distribution."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any

from tuner.measure.protocol import Backend, Ratio, Repeats, Samples

Call = Callable[[], Any]


def interleave(backend: Backend, calls: Mapping[str, Call], repeats: Repeats) -> dict[str, Samples]:
    """Time several calls in turns, each round in the opposite order of the last (ABBA).

    Beyond ``repeats.repeats`` rounds it goes on, up to ``repeats.most``, while there is time and
    some call's ratio to the first is not known tightly enough.
    """
    names = list(calls)
    decisive: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats.warmup):
        for name in names:
            backend.time_call(calls[name])
    started = time.monotonic()
    rounds = 0
    while True:
        for name in names if rounds % 2 == 0 else reversed(names):
            spent, clock = backend.time_call(calls[name])
            decisive[name].append(spent)
            wall[name].append(clock)
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
