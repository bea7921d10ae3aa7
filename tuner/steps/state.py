"""What the steps of a campaign share: the campaign as a whole, and each length on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cost_models.base import CostModel, Sample
from cost_models.ceilings import Ceilings
from cost_models.plans import PlanCost
from cost_models.roofline import Roofline
from cost_models.scoring import Score
from cost_models.stored import StoredModel
from search_space.budget import Budget
from search_space.plan import Plan
from search_space.probe import Prober
from tuner.campaign_records import Records
from tuner.config import CampaignConfig
from tuner.database import PlanRow
from tuner.exhausted import Exhausted
from tuner.limits import Clock
from tuner.measure.timing import median, ratio
from tuner.measured import Baseline, Confirmed, Described
from tuner.measurer import Measurer
from tuner.progress import Progress
from tuner.runtime.analysis import Analysis


@dataclass
class Length:
    """A length on its way through the campaign.

    Attributes:
        described: the graph as captured, and the device's memory.
        analysis: what static analysis knows of it.
        limits: what each budget allows, in bytes; None for the lowest peak.
        baseline: the eager model's run.
        reference: the plan that stands in for the eager model where that does not fit.
        whole_ms: each class's time unchunked, by key: timed alone, or estimated.
        confirmed: every real run, in order.
        proposed: every plan that the search proposed, in order.
        cost: predicts plans of this length, once a cost model is chosen.
    """

    described: Described
    analysis: Analysis
    limits: dict[Budget, int | None]
    baseline: Baseline = Baseline("not run", "")
    reference: Plan | None = None
    whole_ms: dict[str, float] = field(default_factory=dict)
    confirmed: dict[Plan, Confirmed] = field(default_factory=dict)
    proposed: dict[Plan, None] = field(default_factory=dict)
    cost: PlanCost | None = None

    @property
    def length(self) -> int:
        return self.described.length

    @property
    def unchunked_ms(self) -> float:
        """The unchunked capture's median time."""
        return median(self.baseline.unchunked.decisive_ms)

    def timed(self) -> list[Confirmed]:
        """The plans that were confirmed, with their times."""
        return [
            done
            for done in self.confirmed.values()
            if done.status == "ok" and done.samples.decisive_ms
        ]


@dataclass
class State:
    """A campaign on its way. The cost model and its timings are shared by all lengths.

    Attributes:
        target: the submodule that is tuned in place of the whole model; else an empty text.
        environment, ceilings: of the device.
        clock: what is left of the campaign's limits.
        exhausted: the plans that ran out of memory.
        start: an earlier cost model to start from.
        samples: regions timed alone, of all lengths.
        model, scores: the cost model in use, and how the candidates for it did on timings that
            they had not seen.
        compiled_model: the one in use for passes that run compiled.
    """

    config: CampaignConfig
    measurer: Measurer
    progress: Progress
    records: Records
    target: str
    environment: Mapping[str, str]
    ceilings: Ceilings
    clock: Clock
    exhausted: Exhausted = field(default_factory=Exhausted)
    probe: Prober = field(default_factory=Prober)
    lengths: list[Length] = field(default_factory=list)
    start: StoredModel | None = None
    samples: list[Sample] = field(default_factory=list)
    model: CostModel | None = None
    compiled_model: CostModel = field(default_factory=Roofline)
    scores: Mapping[str, Score] = field(default_factory=dict)


def plan_row(done: Confirmed) -> PlanRow:
    """A plan that was timed, as a row of the database."""
    found = ratio(done.samples.decisive_ms, done.reference.decisive_ms)
    return PlanRow(
        done.plan, done.peak_bytes, done.predicted_bytes, median(done.samples.decisive_ms),
        found.median, found.low, found.high,
    )  # fmt: skip
