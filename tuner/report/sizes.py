"""Bytes for people."""

from __future__ import annotations

_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def unit_for(largest_bytes: float) -> tuple[str, int]:
    """The unit in which values up to this one are read best, and its bytes."""
    return next((unit for unit in _UNITS if largest_bytes >= 2 * unit[1]), _UNITS[-1])


def size_text(count: float) -> str:
    """``1.9 KiB``, ``27.5 MiB``, ``3.00 GiB``."""
    unit, size = unit_for(count)
    return f"{count / size:.{2 if unit == 'GiB' else 1}f} {unit}"
