"""What the plan database says: plain values, without a word on files.

One :class:`ModelFile` holds, for a model on a device, one :class:`GraphEntry` per captured graph,
in which one :class:`LengthEntry` per tuned set of input shapes holds the confirmed plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from search_space.budget import Budget
from search_space.plan import Plan

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A confirmed plan at one length.

    Attributes:
        plan: what runs.
        peak_bytes: measured activation peak.
        predicted_bytes: the memory model's.
        latency_ms: measured; CPU time on a CPU, event time on a GPU.
        ratio, ratio_low, ratio_high: of the latency over the eager model's, interleaved: median
            and 95 % interval.
    """

    plan: Plan
    peak_bytes: int
    predicted_bytes: int
    latency_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float

    def peak_where(self, predicted_bytes: int) -> int:
        """The peak to expect where so much is predicted: as many times more as was measured; in
        whole numbers, so that where the row is from it is the measured one to the byte."""
        if self.peak_bytes <= self.predicted_bytes or not self.predicted_bytes:
            return predicted_bytes
        return -(-predicted_bytes * self.peak_bytes // self.predicted_bytes)

    @property
    def needed_bytes(self) -> int:
        """What a budget must allow for it: the measured peak, and of a compiled plan also what it
        takes uncompiled, as which it runs where nothing can be compiled."""
        if not self.plan.compiled:
            return self.peak_bytes
        return max(self.peak_bytes, self.predicted_bytes)


@dataclass(frozen=True, slots=True)
class Reference:
    """The eager model at one length; a latency of 0 where it could not run."""

    peak_bytes: int
    latency_ms: float


@dataclass(frozen=True)
class LengthEntry:
    """What is known at one length: full input shapes, the eager model, confirmed plans by peak.
    ``incomplete`` marks the best so far of a campaign that was stopped or still runs;
    ``environment`` says where it was tuned, and is None where that is its graph's own."""

    length: int
    shapes: Shapes
    eager: Reference
    frontier: tuple[PlanRow, ...]
    incomplete: bool = False
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True)
class GraphEntry:
    """What is known of one captured graph. ``environment`` is where it was tuned last; lengths that
    were tuned elsewhere keep their own."""

    fingerprint: str
    environment: Mapping[str, str]
    symbols: Mapping[str, int]
    budget: Budget | None
    lengths: tuple[LengthEntry, ...]

    def parts(self) -> tuple[GraphEntry, ...]:
        """The lengths of each environment as an entry of their own, those tuned last first."""
        own = sorted(self.environment.items())
        found: dict[tuple[tuple[str, str], ...], list[LengthEntry]] = {tuple(own): []}
        for entry in self.lengths:
            environment = self.environment if entry.environment is None else entry.environment
            place = found.setdefault(tuple(sorted(environment.items())), [])
            place.append(replace(entry, environment=None))
        parts = [
            replace(self, environment=dict(key), lengths=tuple(lengths))
            for key, lengths in found.items()
            if lengths
        ]
        return tuple(parts) or (self,)

    def with_lengths(self, parts: Iterable[GraphEntry]) -> GraphEntry:
        """The lengths of several entries under this one's head, each with its environment."""
        lengths = [
            replace(entry, environment=self._unless_own(part, entry))
            for part in parts
            for entry in part.lengths
        ]
        lengths.sort(key=lambda entry: (entry.length, entry.shapes))
        return replace(self, lengths=tuple(lengths))

    def _unless_own(self, part: GraphEntry, entry: LengthEntry) -> Mapping[str, str] | None:
        found = part.environment if entry.environment is None else entry.environment
        return None if dict(found) == dict(self.environment) else found

    def eager_peak(self, shapes: Shapes) -> int | None:
        """The eager model's activation peak for inputs of these shapes, where it was tuned."""
        return next((e.eager.peak_bytes for e in self.lengths if e.shapes == shapes), None)

    def candidates(self, shapes: Shapes) -> Iterator[tuple[str, tuple[PlanRow, ...]]]:
        """Where to look for a plan, in order: the exact shapes, then larger tuned ones, smallest
        first. Each with a text that says where it comes from."""
        exact = [entry for entry in self.lengths if entry.shapes == shapes]
        larger = [entry for entry in self.lengths if covers(entry.shapes, shapes)]
        larger.sort(key=lambda entry: entry.length)
        for entry in exact:
            yield f"tuned at {entry.length}", entry.frontier
        for entry in larger:
            yield f"tuned at {entry.length}, the next larger length", entry.frontier


@dataclass(frozen=True)
class ModelFile:
    """One file of the database."""

    model: str
    device: str
    graphs: tuple[GraphEntry, ...]
    path: Path = field(default=Path(), compare=False)


def covers(tuned: Shapes, wanted: Shapes) -> bool:
    """Whether the tuned shapes are as large in every dimension, and larger in one."""
    if tuned == wanted or [len(s) for s in tuned] != [len(s) for s in wanted]:
        return False
    return all(
        a >= b for s, t in zip(tuned, wanted, strict=True) for a, b in zip(s, t, strict=True)
    )
