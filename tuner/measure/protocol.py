"""What is measured and how: statuses, settings, samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol


class Status(StrEnum):
    """How a measurement ended. Only PREEMPTED is worth trying again."""

    OK = "ok"
    OOM = "oom"
    OOM_PREDICTED = "oom_predicted"
    TIMEOUT = "timeout"
    CRASH = "crash"
    WRONG_OUTPUT = "wrong_output"
    NOISY = "noisy"
    PREEMPTED = "preempted"


TURN = "turn"
"""The job that waits for a turn on a device (:mod:`tuner.measure.turns`), at most ``most_s``
seconds; the turn ends with the next job, which says under this name that it was to have one."""

WHOLE = "whole"
"""The name under which a region's runs without a loop stand; others are chunk sizes."""

COMPILED = "*"
"""Stands after the chunk size of a region's runs whose passes are compiled."""

CONTENDED = 0.1
"""A device is contended where others have it for more than this share of the time."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often something runs.

    Attributes:
        warmup: unmeasured runs first.
        repeats: measured ones, at least; fewer only where they take three times ``budget_s``.
        most: measured ones, at most.
        budget_s: beyond ``repeats``, no round starts after this many seconds.
        tight: stop before ``most`` when the 95 % intervals of all ratios are this narrow, relative.
        least_ms: a call that takes less is made several times a measurement.
        settled: each measurement is preceded by an unmeasured call.
    """

    warmup: int = 1
    repeats: int = 5
    most: int = 5
    budget_s: float = 20.0
    tight: float = 0.02
    least_ms: float = 0.0
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory of one call in bytes.

    Attributes:
        activation_bytes: allocated at the peak, beyond what was there before.
        reserved_bytes: what the allocator had reserved (0 where it cannot tell).
        requested_bytes: as ``activation_bytes``, without what the allocator rounds up: what a
            memory model can predict.
    """

    activation_bytes: int
    reserved_bytes: int
    requested_bytes: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw times in ms, one entry a run: ``decisive_ms`` is what decides (process CPU time on a CPU,
    event time on a GPU), ``wall_ms`` the clock on the wall."""

    decisive_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]

    def plain(self) -> dict[str, Any]:
        """As plain values, rounded to a tenth of a microsecond."""
        return {
            name: [round(value, 4) for value in values] for name, values in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of times: median of the pairs and a 95 % interval of that median."""

    median: float
    low: float
    high: float


class Backend(Protocol):
    """Times calls and reads peaks on one kind of device."""

    device: str

    def time_call(self, call: Callable[[], Any]) -> tuple[float, float]:
        """Decisive and wall time of one call in ms, its result dropped within."""

    def peak(self, call: Callable[[], Any]) -> tuple[Any, Peak]:
        """The call's result and the memory it took."""

    def settle(self) -> None:
        """Free what is cached, so that the next measurement starts alike."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception says that memory ran out."""

    def is_fatal(self, error: BaseException) -> bool:
        """Whether the process cannot be trusted after it."""

    def turn(self, most_s: float) -> AbstractContextManager[bool]:
        """Keep other campaigns of this user from the device while it is held. They are waited for,
        up to so many seconds; what it gives says whether the turn came."""

    def contention(self) -> float:
        """The share of the time that others have had the device lately: since the last call, or for
        a moment that it waits for; 0 where it cannot tell."""

    def environment(self) -> Mapping[str, str]:
        """Device, driver, versions, threads, clocks: whatever the numbers depend on."""
