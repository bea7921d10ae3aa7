"""Static analysis of a campaign's model: captured in this process, nothing run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from search_space.budget import Budget
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import BudgetError, CaptureError
from search_space.probe import Prober
from search_space.storages import Profile
from tuner.config import CampaignConfig
from tuner.factory import subjects
from tuner.measure.backends import resolve_device
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Captures
from tuner.runtime.kernels import Forms
from tuner.runtime.replaced import unchanged

FRACTIONS = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1)


@dataclass(frozen=True)
class Inspected:
    """A campaign's model, or one of its distinct targets, at one length. ``eager_peak_bytes`` is 0
    where it cannot be told."""

    length: int
    analysis: Analysis
    eager_peak_bytes: int
    target: str = ""


@dataclass(frozen=True)
class FrontierPoint:
    """A point of the analytic estimate: what was asked for, and the plan predicted for it."""

    budget: Budget
    peak_bytes: int
    ratio: float
    choices: int


def inspect_lengths(
    config: CampaignConfig,
    lengths: tuple[int, ...],
    on_length: Callable[[int], None] = lambda length: None,
) -> tuple[Inspected, ...]:
    """Capture and analyse the model, or each distinct target, at these lengths.

    Raises:
        ConfigError, CaptureError: the model cannot be built or captured.
    """
    config = replace(config, device=resolve_device(config.device))
    found = []
    for subject in subjects(config.model, config.device, config.folder, min(lengths)):
        captures, forms = Captures(subject.model), Forms(config.kernels)
        probe = Prober()
        for length in lengths:
            args, kwargs = subject.inputs(length)
            located = captures.locate(args, kwargs)
            graph = forms.chosen(located.captured, located.bindings).graph
            analysis = Analysis.unmeasured(graph, located.bindings, probe)
            try:
                with unchanged(subject.model):
                    eager = eager_peak_bytes(subject.model, args, kwargs)
            except CaptureError:
                eager = 0
            found.append(Inspected(length, analysis, eager, subject.target))
            on_length(length)
    return tuple(found)


def analytic_frontier(one: Inspected) -> tuple[FrontierPoint, ...]:
    """Plans by the roofline for falling budgets, down to the lowest peak."""
    analysis = one.analysis
    eager = one.eager_peak_bytes or analysis.memory.profile().peak_bytes
    points: list[FrontierPoint] = []
    for budget in (*(Budget(fraction=share) for share in FRACTIONS), Budget()):
        limit = budget.resolve(eager)
        try:
            selected = (
                analysis.selector.lowest(analysis.unchunked_s)
                if limit is None
                else analysis.selector.within(limit)
            )
        except BudgetError:
            continue
        ratio = 1 + selected.extra_s / analysis.unchunked_s
        point = FrontierPoint(budget, selected.peak_bytes, ratio, len(selected.plan.choices))
        if not points or point.peak_bytes < points[-1].peak_bytes:
            points.append(point)
    return tuple(points)


def sparkline(profile: Profile, width: int = 64) -> str:
    """A profile as one line of bars: the highest of each stretch of steps."""
    bars = " ▁▂▃▄▅▆▇█"
    live = profile.live_bytes
    count = min(width, len(live)) or 1
    highest = [
        max(live[len(live) * k // count : max(len(live) * (k + 1) // count, 1)], default=0)
        for k in range(count)
    ]
    top = max(profile.peak_bytes, 1)
    return "".join(bars[(8 * value + top - 1) // top] for value in highest)
