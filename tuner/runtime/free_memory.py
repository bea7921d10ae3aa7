"""How much memory is free for activations at this moment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from search_space.errors import ConfigError

FreeMemory = Callable[[], int]
"""Bytes that a call may take now."""

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


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
    return _cpu_free


def _cuda_free(device: torch.device) -> int:
    """What the driver has left, and what the allocator holds without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    stats = torch.cuda.memory.memory_stats_as_nested_dict(device)
    held = stats["reserved_bytes"]["all"]["current"] - stats["allocated_bytes"]["all"]["current"]
    return int(free + held)


def _cpu_free() -> int:
    """What the system could give without swapping, within the control group's limit."""
    free = 0
    with _MEMINFO.open("rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                free = int(line.split()[1]) * 1024
                break
    left = _cgroup_left()
    return free if left is None else min(free, left)


def _cgroup_left() -> int | None:
    """Bytes to the limit of the control group (version 2), None where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        return max(int(limit) - used + _reclaimable(), 0)
    except (OSError, ValueError):  # no such file, or of another form: then there is no such limit
        return None


def _reclaimable() -> int:
    """Cached file pages, which count as used but are given up on demand."""
    for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
