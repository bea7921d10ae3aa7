"""Memory budgets: a share of the eager model's activation peak, bytes, or the lowest there is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from search_space.errors import ConfigError

_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip

_FEWEST = 1000
"""Whole numbers below count no bytes: no model runs in as little, and 50 is meant as a half."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A memory budget as the user gave it; exactly one of the fields is set, or none for "min".

    Attributes:
        fraction: of the eager model's own activation peak.
        absolute_bytes: of activations.
    """

    fraction: float | None = None
    absolute_bytes: int | None = None

    @property
    def is_fraction(self) -> bool:
        return self.fraction is not None

    @property
    def is_minimum(self) -> bool:
        return self.fraction is None and self.absolute_bytes is None

    def resolve(self, eager_peak_bytes: int) -> int | None:
        """The budget in bytes; None for "min"."""
        if self.fraction is not None:
            return int(self.fraction * eager_peak_bytes)
        return self.absolute_bytes

    def __str__(self) -> str:
        if self.fraction is not None:
            return f"{self.fraction:g}"
        return "min" if self.absolute_bytes is None else f"{self.absolute_bytes}"

    @property
    def plain(self) -> float | int | str:
        """The value as it stands in YAML; :func:`parse_budget` reads it back."""
        if self.fraction is not None:
            return self.fraction
        if self.absolute_bytes is None:
            return "min"
        if self.absolute_bytes < _FEWEST:
            return f"{self.absolute_bytes}B"  # a plain number as small is taken for a mistake
        return self.absolute_bytes


def parse_budget(value: object) -> Budget:
    """A budget from what a user wrote: ``0.3``, ``"30%"``, ``2147483648``, ``"2GiB"`` or ``"min"``.

    A float is a fraction of the eager peak, a whole number counts bytes.

    Raises:
        ConfigError: it is none of these, not positive, or a whole number of bytes so small that a
            percentage must be meant.
    """
    hint = "give a fraction such as 0.3, a share such as '30%', bytes such as '2GiB', or 'min'"
    if isinstance(value, str):
        text = value.strip()
        if text.lower() == "min":
            return Budget()
        if text.endswith("%"):
            return _percentage(value, text[:-1], hint)
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)", text)
        if match is None or match[2].upper() not in _UNITS:
            raise ConfigError(f"the memory budget {value!r} is not understood; {hint}")
        if not match[2]:
            return parse_budget(float(text) if "." in text else int(text))
        count = int(float(match[1]) * _UNITS[match[2].upper()])
        if count < 1:
            raise ConfigError(f"the memory budget {value!r} is less than a byte; {hint}")
        return Budget(absolute_bytes=count)
    if isinstance(value, float) and 0 < value <= 1:
        return Budget(fraction=value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        if value == 1:
            return Budget(fraction=1.0)
        if value < _FEWEST:
            raise ConfigError(
                f"the memory budget {value} would be {value} bytes; for a share of the eager "
                f"model's peak write '{value}%' or a fraction, for bytes a unit: '{value}MiB'"
            )
        return Budget(absolute_bytes=value)
    raise ConfigError(f"the memory budget {value!r} is not in (0, 1] and not bytes; {hint}")


def _percentage(value: str, number: str, hint: str) -> Budget:
    try:
        share = float(number) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"the memory budget {value!r} is no share of the whole; {hint}")
    return Budget(fraction=share)
