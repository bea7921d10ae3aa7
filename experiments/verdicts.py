"""What a check of a model finds: trials, rows of trials, and ops that no rule covers."""

from __future__ import annotations

from dataclasses import dataclass

from search_space.dim_rules import find_rule
from search_space.graph import LEAVES, OPAQUE, POINTWISE, RANDOM, SizedGraph

MEMORY_ERROR = 0.03
"""Predicted and measured peaks may differ by this share of the measured one."""

SMALL_BYTES = 4096
"""Differences of peaks below this are of the measuring itself: scalars, a loop's counters."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One plan at one length.

    Attributes:
        chunk_size: of the class; 0 for a combination, and for the captured model unchunked.
        error: in the judge's unit.
        verdict: ``ok``, ``wrong`` (outputs), ``failed`` (an exception, or something of the
            caller's was overwritten), ``peak off``, or ``not legal`` (at another length than that
            of the analysis; the plan is refused there, which is right).
    """

    length: int
    chunk_size: int
    verdict: str
    reason: str = ""
    error: float = 0.0
    predicted_bytes: int = 0
    measured_bytes: int = 0

    @property
    def memory_error(self) -> float:
        """Predicted over measured peak, less 1."""
        return self.predicted_bytes / self.measured_bytes - 1 if self.measured_bytes else 0.0


SEVERITY = {"failed": 3, "wrong": 3, "peak off": 2, "not legal": 1, "ok": 0}
BAD = frozenset({"failed", "wrong"})


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one class or combination; ``extent`` is 0 where there is no single one."""

    title: str
    extent: int
    trials: tuple[Trial, ...]

    @property
    def worst(self) -> Trial:
        """The trial to show: the gravest, then that of the largest error, then of memory."""
        return max(self.trials, key=_gravity)

    @property
    def verdict(self) -> str:
        return self.worst.verdict


def _gravity(trial: Trial) -> tuple[int, float, float]:
    return SEVERITY[trial.verdict], trial.error, abs(trial.memory_error)


@dataclass(frozen=True, slots=True)
class UnknownOp:
    """An op that no rule covers: how often, its largest output, and why."""

    op: str
    count: int
    nbytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that a check found.

    Attributes:
        rows: the captured model unchunked, then combinations, then classes.
        unit: what the trials' errors count.
        unknown: ops without a rule, largest output first.
        notes: what a reader must know: limits that were hit, lengths that need their own capture.
        left_out: runs that the time limit kept from being tried.
    """

    fingerprint: str
    nodes: int
    classes: int
    unit: str
    rows: tuple[Row, ...]
    unknown: tuple[UnknownOp, ...]
    notes: tuple[str, ...]
    left_out: int

    @property
    def wrong(self) -> int:
        """Trials whose outputs were wrong or that failed."""
        return sum(trial.verdict in BAD for row in self.rows for trial in row.trials)

    @property
    def peaks_off(self) -> int:
        return sum(trial.verdict == "peak off" for row in self.rows for trial in row.trials)


def unknown_ops(graph: SizedGraph) -> tuple[UnknownOp, ...]:
    """Ops that no region may contain by rule, largest output first."""
    found: dict[tuple[str, str], list[int]] = {}
    for node in graph.nodes:
        if node.kind in LEAVES or node.op == "getitem":
            continue
        if RANDOM in node.traits:
            reason = "draws random numbers"
        elif OPAQUE in node.traits:
            reason = "has effects, or sizes that depend on data"
        elif find_rule(node.op) is None and POINTWISE not in node.traits:
            reason = "no rule; left to the probe or unchunked"
        else:
            continue
        found.setdefault((node.op, reason), []).append(node.output.nbytes)
    rows = [UnknownOp(op, len(sizes), max(sizes), why) for (op, why), sizes in found.items()]
    return tuple(sorted(rows, key=lambda row: -row.nbytes))
