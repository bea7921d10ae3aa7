"""Bytes for people."""

from __future__ import annotations

_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def unit_for(largest_bytes: float, least: float = 2) -> tuple[str, int]:
    """The largest unit of which there are at least so many (KiB for fewer), and its bytes."""
    return next((unit for unit in _UNITS if largest_bytes >= least * unit[1]), _UNITS[-1])


def size_text(count: float) -> str:
    """``1.9 KiB``, ``27.5 MiB``, ``3.00 GiB``."""
    unit, size = unit_for(count, 1)
    return f"{count / size:.{2 if unit == 'GiB' else 1}f} {unit}"
