"""What a result depends on and what a run may take: the machine, versions, free memory."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tuner.environment import device_name


def available_bytes() -> int:
    """Memory that can be had without swapping.

    Within a control group no more than it leaves free.
    """
    free = 0
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file():
        text = limit.read_text(encoding="ascii").strip()
        if text.isdigit():
            free = min(free, int(text) - int(used.read_text(encoding="ascii")))
    return free


def environment() -> dict[str, str]:
    """Date, processor, cores and the versions of the libraries that decide the numbers."""
    found = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": device_name("cpu"),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    for name in ("torch", "transformers", "diffusers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def plain_number(text: str) -> str | int | float:
    """A number as such, other text as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
