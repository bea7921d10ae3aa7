"""When a campaign's budget of time and runs is spent."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tuner.config import LimitsConfig
from tuner.journal import Journal, Spent


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be spent up to here; counted over all sessions of the campaign."""

    journal: Journal
    until: Spent
    started: float

    def exceeded(self) -> str:
        """Which limit is reached, as a text; empty where none is."""
        spent = _spent(self.journal, self.started)
        if spent.wall_s >= self.until.wall_s:
            return f"{spent.wall_s:.0f} s of the campaign's time are spent"
        if spent.device_s >= self.until.device_s:
            return f"{spent.device_s:.0f} s of the devices' time are spent"
        if spent.runs >= self.until.runs:
            return f"{spent.runs:.0f} plans were run"
        return ""


class Clock:
    """Tells how much of a campaign's limits is left; what earlier sessions took is counted."""

    def __init__(self, limits: LimitsConfig, journal: Journal) -> None:
        self._limits = limits
        self._journal = journal
        self._started = time.monotonic() - journal.spent().wall_s

    @property
    def wall_left_s(self) -> float | None:
        """Seconds until the campaign's own time is spent; None without such a limit."""
        limit = self._limits.wall_s
        return None if limit is None else max(limit - (time.monotonic() - self._started), 0.0)

    def allowance(self, parts: int = 1) -> Allowance:
        """The next of ``parts`` equal parts of what is left."""
        spent = _spent(self._journal, self._started)

        def until(limit: float | None, so_far: float) -> float:
            return float("inf") if limit is None else so_far + max(limit - so_far, 0.0) / parts

        limits = self._limits
        most = Spent(
            until(limits.wall_s, spent.wall_s),
            until(limits.device_s, spent.device_s),
            until(limits.runs, spent.runs),
        )
        return Allowance(self._journal, most, self._started)


def _spent(journal: Journal, started: float) -> Spent:
    recorded = journal.spent()
    return Spent(time.monotonic() - started, recorded.device_s, recorded.runs)
