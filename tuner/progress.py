"""How a campaign tells what it is doing, and how long it will take.

A campaign has parts (one, or one a target), a part has phases, a phase has steps. The command line
draws all this, or prints plain lines; a script may stay silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Best:
    """The best confirmed plan so far for one budget.

    Attributes:
        place: the length, and the target where there are several.
        budget: as the campaign file says it.
        peak_bytes: its measured activation peak; ``eager_bytes`` is the eager model's.
        ratio: of its time over the reference's.
    """

    place: str
    budget: str
    peak_bytes: int
    eager_bytes: int
    ratio: float


class Progress(Protocol):
    """Receives a campaign's progress. Implementations may be called from several threads."""

    def part(self, title: str, place: int, total: int) -> None:
        """Part ``place`` (from 1) of ``total`` begins."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """The phases of this part that are still to come, and how long each should take. Named
        again, a phase's expectation is replaced."""

    def limit(self, seconds: float) -> None:
        """The campaign ends in so many seconds, whatever is left to do."""

    def phase(self, title: str, total: int) -> None:
        """A phase of ``total`` steps begins."""

    def step(self, text: str = "") -> None:
        """One step is done; ``text`` says what came of it."""

    def running(self, text: str) -> None:
        """What is being done now."""

    def measured(self, status: str) -> None:
        """A real run ended with this status."""

    def best(self, found: Best) -> None:
        """A budget has a better plan than before."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Silent:
    """Tells nobody."""

    def part(self, title: str, place: int, total: int) -> None:
        pass

    def expect(self, seconds: Mapping[str, float]) -> None:
        pass

    def limit(self, seconds: float) -> None:
        pass

    def phase(self, title: str, total: int) -> None:
        pass

    def step(self, text: str = "") -> None:
        pass

    def running(self, text: str) -> None:
        pass

    def measured(self, status: str) -> None:
        pass

    def best(self, found: Best) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@dataclass
class TimeLeft:
    """Estimates the seconds left in a campaign from what was expected and what was needed so far.

    Expectations are rough, and wrong by some factor, of which the work done tells more and more:

        ahead = expected of phases to come + expected of this one * share not done
        scale = (needed + ahead / 4) / (expected + ahead / 4), of all expected work done so far
        left = scale * ahead + mean seconds of a finished part * parts to come

    and never more than what a limit allows. Time is given by the caller, so that the estimate can
    be tested without waiting.
    """

    _ahead: dict[str, float] = field(default_factory=dict)
    _end: float | None = None
    _parts_left: int = 0
    _part_started: float | None = None
    _part_seconds: list[float] = field(default_factory=list)
    _expected_done: float = 0.0
    _needed: float = 0.0
    _current_s: float | None = None
    _started: float = 0.0
    _steps: int = 1
    _done: int = 0

    def part(self, now: float, place: int, total: int) -> None:
        """A part begins; the one before has ended."""
        self._close(now)
        if self._part_started is not None:
            self._part_seconds.append(now - self._part_started)
        self._part_started = now
        self._parts_left = total - place
        self._ahead.clear()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Phases to come."""
        self._ahead.update(seconds)

    def limit(self, now: float, seconds: float) -> None:
        """All ends by then."""
        self._end = now + seconds

    def phase(self, now: float, title: str, steps: int) -> None:
        """A phase begins; the one before has ended."""
        self._close(now)
        self._current_s = self._ahead.pop(title, None)
        self._started, self._steps, self._done = now, max(steps, 1), 0

    def step(self) -> None:
        """A step of the phase is done."""
        self._done = min(self._done + 1, self._steps)

    def seconds(self, now: float) -> float | None:
        """The estimate; None while nothing is known."""
        left = self._estimate(now)
        if self._end is None:
            return left
        allowed = max(self._end - now, 0.0)
        return allowed if left is None else min(left, allowed)

    def _estimate(self, now: float) -> float | None:
        if self._current_s is None and not self._ahead:
            return None
        share = self._done / self._steps
        current = self._current_s or 0.0
        expected = self._expected_done + current * share
        needed = self._needed
        if self._current_s is not None and self._done:
            needed += now - self._started
        ahead = sum(self._ahead.values()) + current * (1 - share)
        scale = (needed + ahead / 4) / (expected + ahead / 4) if expected + ahead > 0 else 1.0
        left = scale * ahead
        if self._parts_left and self._part_started is not None:
            known = self._part_seconds or [now - self._part_started + left]
            left += self._parts_left * sum(known) / len(known)
        return left

    def _close(self, now: float) -> None:
        if self._current_s is not None:
            self._expected_done += self._current_s
            self._needed += now - self._started
        self._current_s = None


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
