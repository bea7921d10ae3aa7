"""What the CUDA device at hand has, which decides how kernels share work and what they allocate.

As with :mod:`search_space.processor`, a plan's memory is checked on the machine that it runs on.
"""

from __future__ import annotations

from functools import cache

_USUAL = (72, 78, 84, 108, 114, 128, 132, 142, 144, 148, 170, 188)
"""Multiprocessors of the devices in use, for where none is at hand to ask."""


@cache
def multiprocessors() -> tuple[int, ...]:
    """The current device's count; without a device, those that are usual."""
    import torch  # asked for graphs on CUDA alone, whose process has loaded it

    if not torch.cuda.is_available():
        return _USUAL
    device = torch.cuda.current_device()
    return (torch.cuda.get_device_properties(device).multi_processor_count,)
