"""When a campaign's budget of time and runs is spent."""

from __future__ import annotations

import copy
import math
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
        self._until = Spent(*map(_limit, (limits.wall_s, limits.device_s, limits.runs)))
        self._journal = journal
        self._started = time.monotonic() - journal.spent().wall_s

    @property
    def wall_left_s(self) -> float | None:
        """Seconds until the campaign's own time is spent; None without such a limit."""
        if math.isinf(self._until.wall_s):
            return None
        return max(self._until.wall_s - (time.monotonic() - self._started), 0.0)

    def allowance(self, parts: int = 1) -> Allowance:
        """The next of ``parts`` equal parts of what is left."""
        so_far, most = _spent(self._journal, self._started), self._until

        def until(limit: float, spent: float) -> float:
            return spent + max(limit - spent, 0.0) / parts

        own = Spent(
            until(most.wall_s, so_far.wall_s),
            until(most.device_s, so_far.device_s),
            until(most.runs, so_far.runs),
        )
        return Allowance(self._journal, own, self._started)

    def part(self, parts: int) -> Clock:
        """The next of ``parts`` equal parts of what is left, to be divided further."""
        made = copy.copy(self)
        made._until = self.allowance(parts).until
        return made


def _limit(value: float | None) -> float:
    return math.inf if value is None else value


def _spent(journal: Journal, started: float) -> Spent:
    recorded = journal.spent()
    return Spent(time.monotonic() - started, recorded.device_s, recorded.runs)
