"""Measuring a device's ceilings for the roofline; takes some seconds."""

from __future__ import annotations

from dataclasses import replace

import torch

from cost_models.ceilings import Ceilings, filling_of
from tuner.measure.cpu import cpu_cache_bytes
from tuner.measure.fastest import fastest
from tuner.measure.protocol import Backend
from tuner.measure.rates import measure_rates

_NARROW = 32
"""Rows of the product that shows what narrow ones lose."""


def measure_ceilings(backend: Backend, dtype: torch.dtype = torch.float32) -> Ceilings:
    """Bandwidths, the rate of wide and narrow products, and launch time.

    Each is the fastest of several runs. Of a CPU the rates of kinds of op are measured too.
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
    batch = torch.ones(4, side // 2, side // 2, dtype=dtype, device=device)
    narrow = torch.ones(_NARROW, side, dtype=dtype, device=device)
    with torch.no_grad():
        seconds = fastest(backend, {
            "product": (1, lambda: matrix @ matrix),
            "batch": (1, lambda: batch @ batch),
            "narrow": (5, lambda: narrow @ matrix),
            # a fresh output each time, as in a model: where the system must give new pages for it
            # at every call, they are part of the cost
            "copy": (1, lambda: large + 1),
            "cached": (20, lambda: small + 1),
            "launch": (200, lambda: tiny + 1),
        })  # fmt: skip
    flops_per_s = max(
        2 * side**3 / seconds["product"], 2 * side**3 / 2 / seconds["batch"]
    )
    slowdown = seconds["narrow"] * flops_per_s / (2 * _NARROW * side**2)
    found = Ceilings(
        copy_bytes_per_s=2 * large.nbytes / seconds["copy"],
        cache_bytes_per_s=2 * small.nbytes / seconds["cached"],
        cache_bytes=int(cache),
        matmul_flops_per_s=flops_per_s,
        launch_s=seconds["launch"],
        half_rows=min(max(_NARROW * (slowdown - 1), 1.0), 1024.0),
        filling=filling_of(multiprocessors),
    )
    if cuda:
        return found
    return replace(found, rates=measure_rates(backend, dtype, flops_per_s))
