"""What measuring gives: plain values that proposing and the database work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search_space.graph import Graph
from search_space.plan import Plan
from tuner.measure.protocol import Samples


@dataclass(frozen=True)
class Described:
    """A length as captured: the graph, its symbols' values, and all input shapes.

    ``eager_peak_bytes`` is what a run without data says (0 where it cannot), ``free_bytes`` the
    device's memory at hand.
    """

    length: int
    graph: Graph
    bindings: Mapping[str, int]
    shapes: tuple[tuple[int, ...], ...]
    eager_peak_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Baseline:
    """The eager model at a length; ``status`` other than ok says why there are no numbers."""

    status: str
    reason: str
    peak_bytes: int = 0
    eager: Samples = Samples((), ())
    unchunked: Samples = Samples((), ())


@dataclass(frozen=True)
class Confirmed:
    """One plan's real run. Without an ``ok`` there may be no samples. ``requested_bytes`` is the
    peak without what the allocator rounds up, which is what can be predicted; ``contended`` the
    share of the time of measuring in which others had the device, ``compile_s`` what compiling
    took."""

    plan: Plan
    status: str
    reason: str
    peak_bytes: int = 0
    requested_bytes: int = 0
    predicted_bytes: int = 0
    max_abs_diff: float = 0.0
    samples: Samples = Samples((), ())
    reference: Samples = Samples((), ())
    contended: float = 0.0
    compile_s: float = 0.0
