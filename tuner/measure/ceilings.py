"""Measuring a device's ceilings for the roofline; takes about a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from cost_models.ceilings import Ceilings, filling_of
from tuner.measure.cpu import cpu_cache_bytes
from tuner.measure.protocol import Backend

_NARROW = 32
"""Rows of the product that shows what narrow ones lose."""

_ROUNDS = 9


def measure_ceilings(backend: Backend, dtype: torch.dtype = torch.float32) -> Ceilings:
    """Bandwidths, the rate of wide and narrow products, and launch time.

    Each is the fastest of nine runs, made in turns: what disturbs a run only ever slows it down.
    The median would not do: an allocator takes fresh pages from the system in the first few calls,
    wherever the heap then lies, and a copy runs at a twentieth of its rate meanwhile (0.7 instead
    of 13 GB/s on a small server CPU), so that campaigns of one machine told rates of 4 and 20 GB/s.
    """
    cuda = backend.device.startswith("cuda")
    device = torch.device(backend.device)
    if cuda:
        properties = torch.cuda.get_device_properties(device)
        cache, multiprocessors = properties.L2_cache_size, properties.multi_processor_count
    else:
        cache, multiprocessors = cpu_cache_bytes(), 0
    item = torch.empty((), dtype=dtype).element_size()
    large = torch.ones((512 if cuda else 64) * 2**20 // item, dtype=dtype, device=device)
    small = torch.ones(cache // 4 // item, dtype=dtype, device=device)
    tiny = torch.ones(8, dtype=dtype, device=device)
    side = 8192 if cuda else 1024
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    narrow = torch.ones(_NARROW, side, dtype=dtype, device=device)
    with torch.no_grad():
        seconds = _fastest(backend, {
            "product": (1, lambda: matrix @ matrix),
            "narrow": (5, lambda: narrow @ matrix),
            # a fresh output each time, as in a model: where the system must give new pages for it
            # at every call, they are part of the cost
            "copy": (1, lambda: large + 1),
            "cached": (20, lambda: small + 1),
            "launch": (200, lambda: tiny + 1),
        })  # fmt: skip
    flops_per_s = 2 * side**3 / seconds["product"]
    slowdown = seconds["narrow"] * flops_per_s / (2 * _NARROW * side**2)
    return Ceilings(
        copy_bytes_per_s=2 * large.nbytes / seconds["copy"],
        cache_bytes_per_s=2 * small.nbytes / seconds["cached"],
        cache_bytes=int(cache),
        matmul_flops_per_s=flops_per_s,
        launch_s=seconds["launch"],
        half_rows=min(max(_NARROW * (slowdown - 1), 1.0), 1024.0),
        filling=filling_of(multiprocessors),
    )


def _fastest(
    backend: Backend, calls: Mapping[str, tuple[int, Callable[[], Any]]]
) -> dict[str, float]:
    """Seconds of one call of each, made so many times a run; the fastest of the runs."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(_ROUNDS):
        for name, (times, call) in calls.items():
            spent_ms, _ = backend.time_call(partial(_several, call, times))
            best[name] = min(best[name], spent_ms / 1e3 / times)
    return best


def _several(call: Callable[[], Any], times: int) -> Any:
    result = None
    for _ in range(times):
        result = call()
    return result
