"""How much memory is free for activations at this moment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from search_space.errors import ConfigError
from tuner.measure.confine import available_bytes

FreeMemory = Callable[[], int]
"""Bytes that a call may take now."""

_MEMINFO = Path("/proc/meminfo")


def free_memory_of(device: str) -> FreeMemory:
    """What tells the free memory of a device.

    Raises:
        ConfigError: nothing here can tell.
    """
    if device.startswith("cuda"):
        return partial(_cuda_free, torch.device(device))
    if not _MEMINFO.is_file():
        raise ConfigError(
            "memory='free' cannot tell the free memory of this system; pass a function without "
            "arguments that gives it in bytes, such as memory=lambda: 8 * 2**30"
        )
    return available_bytes


def _cuda_free(device: torch.device) -> int:
    """What the driver has left, and what the allocator holds without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    stats = torch.cuda.memory.memory_stats_as_nested_dict(device)
    held = stats["reserved_bytes"]["all"]["current"] - stats["allocated_bytes"]["all"]["current"]
    return int(free + held)
