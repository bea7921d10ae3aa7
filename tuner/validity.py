"""Whether plans tuned somewhere, some time ago, still hold here.

A plan's *legality* and *memory* are checked anew at every use, by the rules and the memory model of
the running version; what an entry can get wrong is time, and what kernels allocate beside their
outputs. So the verdict on an entry, worst first:

- ``invalid``: for another kind of device (its graph would differ too). Never used.
- ``stale``: tuned with another minor version of torch, whose kernels may be others. Not used until
  ``autochunk plans verify`` or a new campaign has confirmed it here.
- ``compatible``: another model of the device, another patch release, other settings. Used, with one
  log line: the order of its plans is likely to hold, the times are not these.
- ``fresh``: as here.

What an entry does not say is not held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from tuner.entries import GraphEntry, ModelFile


class Verdict(IntEnum):
    """Ascending from best to worst."""

    FRESH = 0
    COMPATIBLE = 1
    STALE = 2
    INVALID = 3

    @property
    def usable(self) -> bool:
        """Whether plans are chosen from such an entry."""
        return self <= Verdict.COMPATIBLE

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and each difference that led to it."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.verdict}: {'; '.join(self.reasons)}" if self.reasons else str(self.verdict)


def _release(version: str) -> tuple[str, ...]:
    """``2.13.0+cpu`` as ``("2", "13", "0")``."""
    return tuple(version.partition("+")[0].split("."))


def _torch(tuned: str, here: str) -> Verdict:
    if _release(tuned)[:2] != _release(here)[:2]:
        return Verdict.STALE
    return Verdict.FRESH if _release(tuned) == _release(here) else Verdict.COMPATIBLE


def _at_worst(verdict: Verdict) -> Callable[[str, str], Verdict]:
    def judge(tuned: str, here: str) -> Verdict:
        return Verdict.FRESH if tuned == here else verdict

    return judge


RULES: Mapping[str, Callable[[str, str], Verdict]] = {
    "device": _at_worst(Verdict.INVALID),
    "torch": _torch,
    "device_name": _at_worst(Verdict.COMPATIBLE),
    "cuda": _at_worst(Verdict.COMPATIBLE),
    "capability": _at_worst(Verdict.COMPATIBLE),
    "tf32": _at_worst(Verdict.COMPATIBLE),
    "threads": _at_worst(Verdict.COMPATIBLE),
    "wait_policy": _at_worst(Verdict.COMPATIBLE),
}
"""What of the environment matters, and how: from what an entry says and what is here."""


def judge(file: ModelFile, entry: GraphEntry, here: Mapping[str, str]) -> Judgement:
    """The verdict on an entry whose lengths were all tuned in its own environment
    (:meth:`~tuner.entries.GraphEntry.parts` gives such).

    Args:
        here: the present environment, as a measuring backend gives it.
    """
    tuned = {**entry.environment, "device_name": file.device}
    worst, reasons = Verdict.FRESH, []
    for key, rule in RULES.items():
        if key in tuned and key in here:
            verdict = rule(tuned[key], here[key])
            if verdict is not Verdict.FRESH:
                reasons.append(f"{key} {tuned[key]!r}, here {here[key]!r}")
                worst = max(worst, verdict)
    return Judgement(worst, tuple(reasons))


def doubts(entry: GraphEntry) -> list[str]:
    """What an entry says that cannot be: a hand has been at it, or a defect."""
    found = []
    for length in entry.lengths:
        place = f"graph {entry.fingerprint}, length {length.length}"
        if not length.shapes:
            found.append(f"{place}: it has no input shapes, so that no call will ever match")
        if length.eager.peak_bytes < 0 or length.eager.latency_ms < 0:
            found.append(f"{place}: the eager model's figures are negative")
        for number, row in enumerate(length.frontier, 1):
            if row.peak_bytes <= 0 or row.predicted_bytes <= 0:
                found.append(f"{place}, row {number}: a peak must be positive")
            if not 0 < row.latency_ms < float("inf"):
                found.append(f"{place}, row {number}: latency_ms is {row.latency_ms}")
            if not 0 < row.ratio_low <= row.ratio <= row.ratio_high < float("inf"):
                found.append(
                    f"{place}, row {number}: the ratio {row.ratio} is not within its interval, "
                    f"{row.ratio_low} to {row.ratio_high}"
                )
        if len({row.plan for row in length.frontier}) < len(length.frontier):
            found.append(f"{place}: one plan stands in two rows")
    return found
