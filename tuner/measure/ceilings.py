"""Measuring a device's ceilings for the roofline; takes about a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cost_models.ceilings import Ceilings, filling_of
from tuner.measure.cpu import cpu_cache_bytes
from tuner.measure.protocol import Backend
from tuner.measure.timing import median

_NARROW = 32
"""Rows of the product that shows what narrow ones lose."""


def measure_ceilings(backend: Backend, dtype: torch.dtype = torch.float32) -> Ceilings:
    """Bandwidths, the rate of wide and narrow products, and launch time, each a median of seven."""
    cuda = backend.device.startswith("cuda")
    device = torch.device(backend.device)
    if cuda:
        properties = torch.cuda.get_device_properties(device)
        cache, multiprocessors = properties.L2_cache_size, properties.multi_processor_count
    else:
        cache, multiprocessors = cpu_cache_bytes(), 0

    def seconds(call: Callable[[], Any], times: int = 1) -> float:
        def several() -> Any:
            result = None
            for _ in range(times):
                result = call()
            return result

        for _ in range(2):
            backend.time_call(several)
        return median([backend.time_call(several)[0] for _ in range(7)]) / 1e3 / times

    item = torch.empty((), dtype=dtype).element_size()
    large = torch.ones((512 if cuda else 64) * 2**20 // item, dtype=dtype, device=device)
    small = torch.ones(cache // 4 // item, dtype=dtype, device=device)
    tiny = torch.ones(8, dtype=dtype, device=device)
    side = 8192 if cuda else 1024
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    narrow = torch.ones(_NARROW, side, dtype=dtype, device=device)
    with torch.no_grad():
        flops_per_s = 2 * side**3 / seconds(lambda: matrix @ matrix)
        slowdown = seconds(lambda: narrow @ matrix, times=5) * flops_per_s / (
            2 * _NARROW * side**2
        )
        found = Ceilings(
            # a fresh output each time, as in a model: its pages are part of the cost
            copy_bytes_per_s=2 * large.nbytes / seconds(lambda: large + 1),
            cache_bytes_per_s=2 * small.nbytes / seconds(lambda: small + 1, times=20),
            cache_bytes=int(cache),
            matmul_flops_per_s=flops_per_s,
            launch_s=seconds(lambda: tiny + 1, times=200),
            half_rows=min(max(_NARROW * (slowdown - 1), 1.0), 1024.0),
            filling=filling_of(multiprocessors),
        )
    return found
