"""What a report knows of a campaign, as plain values. :mod:`tuner.report.read` fills them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_space.budget import Budget
from search_space.plan import Plan
from tuner.database import PlanRow, Reference, slug
from tuner.frontier import best_within, frontier
from tuner.measure.protocol import Ratio

NOT_RUN = Reference(0, 0.0)


@dataclass(frozen=True)
class Expected:
    """What was predicted of a plan before it ran; times relative to the reference's. ``setting``
    names the plan's chunk sizes by class."""

    ratio: float
    ratio_spread: float
    peak_bytes: int
    setting: Mapping[str, int]


@dataclass(frozen=True)
class PlanRun:
    """The last real run of one plan at one length.

    Attributes:
        key: eight hexadecimal digits, the same wherever the plan occurs.
        max_abs_diff: of its outputs; None where they were not compared.
        ratio: of its time over the reference's, of ``pairs`` runs beside each other; None without.
        contended: share of the time of timing it in which others had the device; None where it was
            not watched.
    """

    key: str
    plan: Plan
    status: str
    reason: str
    peak_bytes: int = 0
    predicted_bytes: int = 0
    max_abs_diff: float | None = None
    latency_ms: float = 0.0
    ratio: Ratio | None = None
    pairs: int = 0
    expected: Expected | None = None
    contended: float | None = None

    @property
    def row(self) -> PlanRow:
        """As a row of the plan database; only for a run with a ratio."""
        assert self.ratio is not None
        return PlanRow(
            self.plan, self.peak_bytes, self.predicted_bytes, self.latency_ms, self.ratio.median,
            self.ratio.low, self.ratio.high,
        )  # fmt: skip


@dataclass(frozen=True)
class FoundRegion:
    """A region class as a person reads it; see :mod:`tuner.campaign_records`."""

    key: str
    region: str
    dimension: str
    computes: str
    nodes: int
    times: int
    extent: int


@dataclass(frozen=True)
class Candidate:
    """A class that could run in chunks, and what is alive around it whole and in small chunks."""

    found: FoundRegion
    whole_bytes: int
    chunked_bytes: int


@dataclass(frozen=True)
class Found:
    """What static analysis found at one length."""

    graph: str
    nodes: int
    settings: int
    eager_peak_bytes: int
    unchunked_peak_bytes: int
    timeline_bytes: tuple[int, ...]
    not_understood: Mapping[str, int]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class ChosenRegion:
    """A class that a plan runs in chunks, and what for.

    Attributes:
        without_bytes: the plan's predicted peak, were this class left alone.
        extra_ms: how much longer the cost model says the class takes in chunks.
    """

    found: FoundRegion
    chunk_size: int
    passes: int
    without_bytes: int
    extra_ms: float


@dataclass(frozen=True)
class PlanDetail:
    """A plan of a finished frontier: its figures, its loops, its memory over a run."""

    row: PlanRow
    chosen: tuple[ChosenRegion, ...]
    timeline_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Served:
    """A budget, and the plan that serves it; None where no run confirmed one."""

    budget: Budget
    limit_bytes: int | None
    row: PlanRow | None


@dataclass(frozen=True)
class Result:
    """How a length ended."""

    reference: str
    eager: Reference
    served: tuple[Served, ...]
    plans: tuple[PlanDetail, ...]


@dataclass
class LengthData:
    """All that the ledger knows of one length of one target (an empty text for the whole model).

    Attributes:
        graph: the fingerprint of the model's graph; empty where no record says it.
        baseline: status of the unchunked model's run.
        eager: its peak and latency, where it ran; ``unchunked_ms`` is that of the bare capture.
        found, result: what analysis found, and how it ended, where that is known.
        rounds: per round of the search, the plans predicted: setting, latency in ms, peak.
        runs: the last real run of each plan, by its key.
        ended: every real run by status, repeated ones too.
        alone: per class, the ratio of its time in chunks over its time whole, by chunk size.
        failures: what went wrong, in order: what, status, reason.
        expected: what was predicted of plans before their first run, by plan key.
    """

    target: str
    length: int
    graph: str = ""
    baseline: str = ""
    eager: Reference = NOT_RUN
    unchunked_ms: float = 0.0
    found: Found | None = None
    result: Result | None = None
    rounds: dict[int, Sequence[tuple[Mapping[str, int], float, int]]] = field(default_factory=dict)
    runs: dict[str, PlanRun] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    alone: dict[str, Mapping[int, float]] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    expected: dict[str, Expected] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """``length 512``, after the target where there is one."""
        return f"{self.target}, length {self.length}".removeprefix(", ")

    @property
    def title(self) -> str:
        """The place at the beginning of a sentence; a target's name stays as it is."""
        return self.place if self.target else f"Length {self.length}"

    @property
    def anchor(self) -> str:
        """The place as part of ids and file names; targets of like names are told apart."""
        if not self.target:
            return slug(self.place)
        return f"{slug(self.place)}-{hashlib.sha256(self.target.encode()).hexdigest()[:4]}"

    @property
    def short(self) -> str:
        """The length alone, after the target where there is one."""
        return f"{self.target}, {self.length}".removeprefix(", ")

    @property
    def reference(self) -> str:
        """What times are relative to: ``eager``, or ``lowest plan`` where eager does not fit."""
        if self.result is not None:
            return self.result.reference
        return "eager" if self.baseline in ("", "ok") else "lowest plan"

    @property
    def eager_bytes(self) -> int:
        """The eager model's peak: measured, else as told without running it, else 0."""
        told = self.found.eager_peak_bytes if self.found is not None else 0
        return self.eager.peak_bytes or told

    @property
    def timed(self) -> list[PlanRun]:
        """The runs that can be compared."""
        return [run for run in self.runs.values() if run.status == "ok" and run.ratio is not None]

    @property
    def frontier(self) -> tuple[PlanRow, ...]:
        """The confirmed plans worth keeping; of a length that has not ended, those so far."""
        if self.result is not None:
            return tuple(plan.row for plan in self.result.plans)
        return frontier([run.row for run in self.timed])

    def served(self, budgets: Sequence[Budget]) -> Sequence[Served]:
        """Which plan serves which budget; of a length that has not ended, as it is so far."""
        if self.result is not None:
            return self.result.served
        rows = [run.row for run in self.timed]
        limits = [budget.resolve(self.eager_bytes) for budget in budgets]
        return [
            Served(budget, limit, best_within(rows, limit))
            for budget, limit in zip(budgets, limits, strict=True)
        ]

    def run_of(self, row: PlanRow) -> PlanRun | None:
        """The real run behind a row."""
        return self.runs.get(plan_key(row.plan))


@dataclass
class Run:
    """One campaign's ledger.

    Attributes:
        lengths: by target and length, in the ledger's order, as the model was last.
        set_aside: what was measured of other graphs: the model has changed since.
        scores: per target, the cost model used, and each model's accuracy.
        refused: targets that were left out, and why.
        kinds, passed_over: records by kind, and those of a known kind that were not understood.
        started, ended: when the first and the last record were written.
        target: the one that records without a target belong to.
    """

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    op_rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lengths: dict[tuple[str, int], LengthData] = field(default_factory=dict)
    set_aside: dict[tuple[str, int, str], LengthData] = field(default_factory=dict)
    scores: dict[str, tuple[str, Mapping[str, Mapping[str, Any]]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    started: str = ""
    ended: str = ""
    target: str = ""

    @property
    def model(self) -> str:
        """The model's name."""
        model = self.config.get("model")
        return str(model.get("id")) if isinstance(model, Mapping) else "unknown"

    @property
    def complete(self) -> bool:
        """Whether every length, of every target that was not refused, came to its end."""
        wanted = set(self.config.get("seq_lens", ()))
        kept = [one for one in self.lengths.values() if one.target not in self.refused]
        return wanted <= {one.length for one in kept} and all(
            one.result is not None for one in kept
        )


def plan_key(plan: Plan) -> str:
    """A short name of a plan."""
    return hashlib.sha256(repr(plan).encode()).hexdigest()[:8]
