"""Values of campaign files that have a form of their own: durations, memory, presets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from search_space.budget import parse_budget
from search_space.errors import ConfigError

Parser = Callable[[str, Any], Any]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # a first impression, in minutes
    "quick": {
        "search": {"n_trials": 80, "rounds": 1},
        "cost_model": {"timings_s": 8},
        "confirm": {"top_k": 1, "warmup": 1, "repeats": 3, "timeout_s": 60, "interval": 0.05},
        "limits": {"wall_s": "15m"},
    },
    # what holds where nothing else is said, within an afternoon
    "standard": {"limits": {"wall_s": "3h"}},
    # all that a night can give
    "overnight": {
        "search": {"n_trials": 600, "rounds": 4},
        "cost_model": {"timings_s": 120},
        "confirm": {"top_k": 5, "repeats": 9, "timeout_s": 900, "interval": 0.01},
        "limits": {"wall_s": "10h"},
    },
}
"""Defaults by name; what a campaign file says itself goes before them."""

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def with_preset(data: Mapping[str, Any]) -> dict[str, Any]:
    """A campaign's values with those of its preset below them."""
    name = data.get("preset")
    below: Mapping[str, Any] = PRESETS.get(name, {}) if isinstance(name, str) else {}
    found = dict(data)
    for section, values in below.items():
        own = data.get(section)
        if own is None or isinstance(own, Mapping):
            found[section] = {**values, **(own or {})}
    return found


def duration(key: str, value: Any) -> float:
    """Seconds, from a number or a text such as ``8h`` or ``1h30m``."""
    number = value
    if isinstance(value, str):
        parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value.strip())
        if parts is None or not any(parts.groups()):
            raise ConfigError(f"{key} must be seconds, or a text such as 8h or 90m, got {value!r}")
        amounts = zip(parts.groups(default="0"), _SECONDS.values(), strict=True)
        number = sum(int(amount) * unit for amount, unit in amounts)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ConfigError(f"{key} must be seconds, or a text such as 8h or 90m, got {value!r}")
    if not 0 < number < math.inf:
        raise ConfigError(f"{key} must be more than nothing, got {value!r}")
    return float(number)


def memory(key: str, value: Any) -> int:
    """Bytes, from a number or a text such as ``16GiB``."""
    try:
        found = parse_budget(value).absolute_bytes
    except ConfigError:
        found = None
    if found is None:
        raise ConfigError(f"{key} must be bytes, or a text such as 16GiB, got {value!r}")
    return found


def targets(key: str, value: Any) -> tuple[str, ...] | None:
    """Names of submodules, one or several; None for none."""
    if value is None:
        return None
    found = [value] if isinstance(value, str) else value
    if (
        not isinstance(found, list)
        or not found
        or not all(isinstance(one, str) and one.strip() for one in found)
    ):
        raise ConfigError(
            f"{key} must be names of submodules such as 'trunk.blocks.*', or auto, got {value!r}"
        )
    return tuple(one.strip() for one in found)


def optional(parse: Parser) -> Parser:
    """A value that may be absent, or null."""

    def read(key: str, value: Any) -> Any:
        return None if value is None else parse(key, value)

    return read
