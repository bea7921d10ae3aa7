"""What a result depends on: the machine and the versions of libraries."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from tuner.environment import device_name


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
