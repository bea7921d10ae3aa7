"""What kinds of op were measured to cost on a CPU, where the plain roofline is too simple.

A core does one thing after the other: what an op computes and what it moves add up,

    seconds = launch + elements e + rows r + gathered g + bytes / B(bytes)

for all but products, with e and r the kind's own cost of an element and of a row (a softmax, a
normalization), g that of an element which is read across the order it lies in (by how many bytes
are, and by whether they compete for places in a cache), and B the rate of memory at so many bytes,
and

    seconds = launch + flops / F max(s_rows(m), s_columns(n)) s_summed(k)
              + gathered g + bytes / B(bytes)

for products of (m, k) and (k, n) matrices, the s being measured slowdowns of narrow sides. Of a
batch whose matrices the library cannot read where they lie each is copied and multiplied by itself.
Fused attention goes at large products' rate, slowed down where queries are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cost_models.curve import Curve, curve_of, value_at
from cost_models.kinds import ADDMM, ATTENTION, CONVOLUTION, EMPTY, PLAIN, VIEW
from cost_models.work import Work


@dataclass(frozen=True, slots=True)
class OpRate:
    """A kind's costs in seconds: of starting it, of an element, and of a row."""

    launch_s: float
    element_s: float = 0.0
    row_s: float = 0.0

    def __post_init__(self) -> None:
        if not (self.launch_s > 0 <= min(self.element_s, self.row_s)):
            raise ValueError(f"costs are not negative, and starting takes time, got {self}")


@dataclass(frozen=True, slots=True)
class Rates:
    """A CPU's measured costs, see the module.

    Attributes:
        bandwidth: bytes per second, by the bytes that an op reads and writes.
        rows, columns, across, summed: how much longer a product takes, by the length of a side;
            ``across`` is that of columns where the second matrix lies by columns.
        convolution: operations per second of convolutions, by how many one has.
        gather_s: seconds of an element that is read across the order it lies in.
        ops: by kind; kinds that are not in it cost what ``plain`` ones do.
        alone: as ``rows``, of a single matrix, which all threads share.
        attention: how much longer fused attention takes, by how many queries there are.
        gather, aliased: as ``gather_s``, by the bytes of all such elements; ``aliased`` where
            neighbours are a multiple of ``ALIASED`` apart.

    The last four are empty in rates that were measured before ceilings had version 3; the others
    then tell what they told.
    """

    bandwidth: Curve
    rows: Curve
    columns: Curve
    across: Curve
    summed: Curve
    convolution: Curve
    gather_s: float
    ops: Mapping[str, OpRate]
    alone: Curve = ()
    attention: Curve = ()
    gather: Curve = ()
    aliased: Curve = ()

    def __post_init__(self) -> None:
        if PLAIN not in self.ops:
            raise ValueError(f"rates need those of {PLAIN} ops, got {sorted(self.ops)}")

    def launch_s(self, work: Work) -> float:
        """Seconds to start the op, or to make the view."""
        if not work.launches and work.kind != VIEW:
            return 0.0
        return self._rate(work).launch_s

    def moving_s(self, work: Work, share: float) -> float:
        """Seconds that an op on a share of its extent spends on memory."""
        moved = 0.0 if work.kind == EMPTY else work.sliced_bytes * share + work.whole_bytes
        return moved / value_at(self.bandwidth, moved) if moved else 0.0

    def computing_s(self, work: Work, share: float, flops_per_s: float) -> float:
        """All else that it spends but its launch.

        Args:
            flops_per_s: of large matrix products.
        """
        if work.parts:
            return sum(self.computing_s(part, share, flops_per_s) for part in work.parts)
        gathered = self._gathered_s(work, share)
        if work.kind == CONVOLUTION:
            done = work.flops * share
            return done / value_at(self.convolution, done) + gathered
        if work.matrix is not None or work.kind == ATTENTION:
            return self._narrow(work, share) * work.flops * share / flops_per_s + gathered
        if work.kind == EMPTY:
            return 0.0
        rate = self._rate(work)
        rows = work.elements / work.row if work.row else 0.0
        return share * (work.elements * rate.element_s + rows * rate.row_s) + gathered

    def _rate(self, work: Work) -> OpRate:
        return self.ops.get(work.kind, self.ops[PLAIN])

    def _gathered_s(self, work: Work, share: float) -> float:
        total = 0.0
        for one in work.gathered:
            part = 1.0 if one.whole else share
            total += part * one.elements * self.element_s(part * one.nbytes, one.aliased)
        if work.by_matrix and self.alone:
            total += work.matrices(share) * self.ops.get(ADDMM, self.ops[PLAIN]).launch_s
        return total

    def element_s(self, nbytes: float, aliased: bool) -> float:
        """Seconds of an element that is read across the order it lies in, one of so many bytes."""
        curve = self.aliased if aliased else self.gather
        return value_at(curve, max(nbytes, 1.0)) if curve else self.gather_s

    def _narrow(self, work: Work, share: float) -> float:
        rows, columns = work.sides(share)
        if work.kind == ATTENTION:
            few = work.needed * value_at(self.attention, rows) if self.attention else 1.0
            return work.slowdown * few
        single = self.alone and (work.by_matrix or work.matrices(share) < 2)
        long = value_at(self.alone if single else self.rows, rows)
        wide = value_at(self.across if work.across else self.columns, columns)
        return max(long, wide) * value_at(self.summed, max(work.summed, 1.0))


_CURVES = ("bandwidth", "rows", "columns", "across", "summed", "convolution")
_LATER = ("alone", "attention", "gather", "aliased")


def rates_from_plain(row: Mapping[str, Any]) -> Rates:
    """The inverse of :func:`dataclasses.asdict`, as far as JSON keeps it.

    Raises:
        KeyError, TypeError, ValueError: something is missing, unknown or impossible.
    """
    return Rates(
        **{name: curve_of(row[name]) for name in _CURVES},
        **{name: curve_of(row[name]) for name in _LATER if row.get(name)},
        gather_s=float(row["gather_s"]),
        ops={kind: OpRate(**costs) for kind, costs in row["ops"].items()},
    )
