"""The fastest of several runs: what disturbs a run only ever slows it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tuner.measure.protocol import Backend

_ROUNDS, _FEWEST = 9, 3

_MOST_S = 1.0
"""No round beyond the fewest starts later; on a CPU products in half precision may take long."""


def fastest(
    backend: Backend, calls: Mapping[str, tuple[int, Callable[[], Any]]]
) -> dict[str, float]:
    """Seconds of one call of each, made so many times a run, in turns; the fastest of up to
    nine runs.

    The median would not do: an allocator takes fresh pages from the system in the first few calls,
    wherever the heap then lies, and a copy runs at a twentieth of its rate meanwhile (0.7 instead
    of 13 GB/s on a small server CPU), so that campaigns of one machine told rates of 4 and 20 GB/s.
    """
    best = dict.fromkeys(calls, float("inf"))
    start = time.monotonic()
    for number in range(_ROUNDS):
        if number >= _FEWEST and time.monotonic() - start > _MOST_S:
            break
        for name, (times, call) in calls.items():
            spent_ms, _ = backend.time_call(partial(_several, call, times))
            best[name] = min(best[name], spent_ms / 1e3 / times)
    return best


def _several(call: Callable[[], Any], times: int) -> Any:
    result = None
    for _ in range(times):
        result = call()
    return result
