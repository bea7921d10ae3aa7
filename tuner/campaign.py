"""A campaign: capture, analyse, time regions, propose, confirm, refit, and write the database.

Each length goes through the same steps, one small function each; what they share is in
:class:`_Length`. Proposals come from predictions alone, and only confirmed plans are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from cost_models.base import CostModel, Sample
from cost_models.ceilings import Ceilings
from cost_models.create import create
from cost_models.features import loop_features
from cost_models.plans import PlanCost
from cost_models.scoring import Score, choose
from cost_models.select import Selector, mib
from cost_models.times import graph_seconds, loop_seconds
from search_space.budget import Budget
from search_space.classes import RegionClass
from search_space.errors import BudgetError, ConfigError, MeasurementError
from search_space.plan import Plan
from search_space.probe import Prober
from tuner.campaign_result import BudgetResult, CampaignResult, LengthResult, timed_sizes
from tuner.config import CampaignConfig
from tuner.database import GraphEntry, LengthEntry, PlanRow, Reference, write_graph
from tuner.frontier import SLOWEST, best_within, frontier
from tuner.ledger import Ledger
from tuner.measure.backends import resolve_device
from tuner.measure.protocol import Samples, Status
from tuner.measure.timing import median, ratio
from tuner.measurer import Baseline, Confirmed, Described, Measurer
from tuner.progress import Progress, Silent
from tuner.runtime.analysis import Analysis
from tuner.study import Proposal, propose

FINALISTS = 8
"""Plans of a length that are timed in turns at the end, so that they can be compared."""


@dataclass
class _Length:
    """A length on its way through the campaign."""

    described: Described
    analysis: Analysis
    limits: dict[Budget, int | None]
    baseline: Baseline = Baseline("not run", "")
    reference: Plan | None = None
    whole_ms: dict[str, float] = field(default_factory=dict)
    confirmed: dict[Plan, Confirmed] = field(default_factory=dict)
    cost: PlanCost | None = None

    @property
    def unchunked_ms(self) -> float:
        return median(self.baseline.unchunked.decisive_ms)


def run_campaign(
    config: CampaignConfig, progress: Progress | None = None
) -> CampaignResult:
    """Tune a model as the configuration says, and write its plans to the database. With targets,
    each distinct one is tuned as a model of its own: budgets are shares of its own eager peak.

    Raises:
        ConfigError, CaptureError: the configuration's model or inputs are wrong.
        BudgetError: a budget cannot be met at some length; nothing is measured then.
        MeasurementError: nothing could be measured.
    """
    progress = progress or Silent()
    config = replace(config, device=resolve_device(config.device))
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output: {config.output} cannot be written: {error}; name another folder"
        ) from error
    text = yaml.safe_dump(config.plain(), sort_keys=False)
    with Ledger(config.output / "ledger.jsonl") as ledger, Measurer(config, ledger) as measurer:
        # only now: another campaign may be running there, and the ledger knows
        (config.output / "config.yaml").write_text(text, encoding="utf-8")
        ledger.append("campaign", {"config": config.plain()})
        if config.model.targets is None:
            return _Campaign(config, measurer, progress).run()
        progress.note("starting the measuring process and building the model")
        names = measurer.targets(min(config.seq_lens))
        measurer.close()
        return _tune_targets(config, ledger, names, progress)


def _tune_targets(
    config: CampaignConfig, ledger: Ledger, names: Sequence[str], progress: Progress
) -> CampaignResult:
    """Tune each distinct target. One that cannot meet the budgets does not keep others from it."""
    found: dict[str, CampaignResult] = {}
    failed: dict[str, BudgetError] = {}
    for name in names:
        progress.note(f"target {name}")
        ledger.append("target", {"target": name})
        with Measurer(config, ledger, name) as measurer:
            try:
                found[name] = _Campaign(config, measurer, progress, name).run()
            except BudgetError as error:
                failed[name] = error
                ledger.append("target", {"target": name, "status": "refused", "reason": str(error)})
                progress.note(f"target {name} is left out: {error}")
    if not found:
        lines = "\n".join(f"target {name}: {error}" for name, error in failed.items())
        lowest = max(error.lowest_bytes for error in failed.values())
        raise BudgetError(lines, lowest_bytes=lowest)
    return CampaignResult(
        tuple(one for result in found.values() for one in result.lengths),
        ", ".join(dict.fromkeys(result.model_used for result in found.values())),
        {
            kind if len(found) == 1 else f"{name}: {kind}": score
            for name, result in found.items()
            for kind, score in result.scores.items()
        },
        tuple(dict.fromkeys(path for result in found.values() for path in result.files)),
    )


class _Campaign:
    """One campaign's run. State is per length; the cost model is shared by all lengths."""

    def __init__(
        self, config: CampaignConfig, measurer: Measurer, progress: Progress, target: str = ""
    ) -> None:
        self._config = config
        self._target = target
        self._measurer = measurer
        self._progress = progress
        self._probe = Prober()
        self._samples: list[Sample] = []

    def run(self) -> CampaignResult:
        self._progress.note("starting the measuring process and building the model")
        environment, ceilings = self._measurer.environment()
        self._progress.note(
            f"device {environment['device_name']}: {ceilings.copy_bytes_per_s / 1e9:.1f} GB/s, "
            f"{ceilings.matmul_flops_per_s / 1e9:.0f} GFLOP/s, "
            f"{ceilings.launch_s * 1e6:.1f} us an op"
        )
        lengths = self._analyse(ceilings)
        self._progress.phase("baselines", len(lengths))
        for one in lengths:
            self._baseline(one)
        self._time_regions(lengths, ceilings)
        model, scores = choose(create(self._config.cost_model.kind, self._config.search.seed),
                               self._samples)  # fmt: skip
        self._progress.note(_scores_text(model, scores))
        results = []
        files: dict[Path, None] = {}
        for one in lengths:
            result = self._tune(one, model, ceilings)
            results.append(result)
            if result.frontier:
                # written length by length: what is confirmed survives whatever comes after
                entry = self._entry(one, result, environment)
                files[write_graph(
                    self._config.plans, environment["device_name"], self._config.model.id, entry
                )] = None  # fmt: skip
        if not any(result.frontier for result in results):
            raise MeasurementError(
                "no plan could be confirmed at any length; the ledger "
                f"{self._config.output / 'ledger.jsonl'} says why, run by run"
            )
        return CampaignResult(tuple(results), model.kind, scores, tuple(files))

    def _analyse(self, ceilings: Ceilings) -> list[_Length]:
        """Capture and analyse every length, and see that every budget can be met."""
        config = self._config
        self._progress.phase("capture and analysis", len(config.seq_lens))
        found = []
        failures: list[tuple[str, int]] = []
        for length in config.seq_lens:
            described = self._measurer.describe(length)
            analysis = Analysis(described.graph, described.bindings, ceilings, self._probe)
            eager = described.eager_peak_bytes or analysis.memory.profile().peak_bytes
            limits: dict[Budget, int | None] = {}
            for budget in config.budgets:
                limits[budget] = budget.resolve(eager)
                limit = limits[budget]
                try:
                    if limit is not None:
                        analysis.selector.within(limit)
                except BudgetError as error:
                    share = f" ({error.lowest_bytes / eager:.3f} of eager's {mib(eager)})"
                    failures.append((
                        f"budget {budget} at length {length}: {error}{share}", error.lowest_bytes,
                    ))  # fmt: skip
            found.append(_Length(described, analysis, limits))
            classes = analysis.space.classes
            self._progress.step(
                f"length {length}: {len(described.graph.nodes)} nodes, {len(classes)} region "
                f"classes, {analysis.space.size:.3g} settings; eager peak {mib(eager)}"
            )
        if failures:
            lines = "\n  ".join(text for text, _ in failures)
            raise BudgetError(
                f"these budgets cannot be met, so that nothing was measured:\n  {lines}",
                lowest_bytes=max(lowest for _, lowest in failures),
            )
        return found

    def _baseline(self, one: _Length) -> None:
        length = one.described.length
        one.baseline = self._measurer.baseline(length, one.analysis.graph.fingerprint)
        if one.baseline.status == "ok":
            self._progress.step(
                f"length {length}: eager {mib(one.baseline.peak_bytes)}, "
                f"{median(one.baseline.eager.decisive_ms):.1f} ms"
            )
            self._resolve_limits(one)
            return
        if one.baseline.status not in (Status.OOM, Status.TIMEOUT):
            raise MeasurementError(
                f"the unchunked model does not run at length {length}: {one.baseline.status}: "
                f"{one.baseline.reason}"
            )
        # too large unchunked: the plan of the lowest peak stands in for it
        lowest = one.analysis.selector.lowest().plan
        run = self._measurer.check(length, lowest, lowest)
        if run.status == "ok":
            run = self._measurer.together(length, [run], lowest)[0]
        if run.status != "ok":
            raise MeasurementError(
                f"length {length} does not fit: unchunked {one.baseline.status}, and the plan of "
                f"the lowest peak: {run.status}: {run.reason}. Leave this length out"
            )
        one.reference = lowest
        one.baseline = Baseline(
            one.baseline.status, one.baseline.reason, 0, run.samples, run.samples
        )
        self._progress.step(
            f"length {length}: unchunked {one.baseline.status}; measured against the lowest plan"
        )

    def _resolve_limits(self, one: _Length) -> None:
        """Fractions are of the measured peak from here on, as they will be at inference."""
        for budget in one.limits:
            limit = budget.resolve(one.baseline.peak_bytes)
            one.limits[budget] = limit
            try:
                if limit is not None:
                    one.analysis.selector.within(limit)
            except BudgetError as error:
                self._progress.note(
                    f"length {one.described.length}: of the measured peak, budget {budget} is too "
                    f"little: {error}"
                )

    def _time_regions(self, lengths: Sequence[_Length], ceilings: Ceilings) -> None:
        """Time each length's classes alone, those that save most first, until the time is spent."""
        budget_s = self._config.cost_model.timings_s
        total = sum(len(one.analysis.space.classes) for one in lengths) if budget_s else 0
        self._progress.phase("timing regions alone", total)
        for one in lengths:
            spent_ms = 0.0
            space = one.analysis.space
            pairs = sorted(
                zip(space.classes, space.grids, strict=True),
                key=lambda pair: -pair[0].saves_bytes * len(pair[0].loops),
            )
            for item, grid in pairs if budget_s else ():
                if spent_ms > budget_s * 1e3:
                    self._progress.step()
                    continue
                sizes = timed_sizes(grid)
                found = self._measurer.region(
                    one.described.length, item, sizes, budget_s / len(pairs)
                )
                if found is None:
                    self._progress.step(f"class {item.key} could not be timed alone")
                    continue
                spent_ms += sum(sum(samples.wall_ms) for samples in found.values())
                self._keep_timing(one, item, found, ceilings)
                self._progress.step()
            self._fill_whole_ms(one, ceilings)

    def _keep_timing(
        self,
        one: _Length,
        item: RegionClass,
        found: Mapping[str, Samples],
        ceilings: Ceilings,
    ) -> None:
        whole = found["whole"].decisive_ms
        one.whole_ms[item.key] = max(median(whole), 1e-4)
        for name, samples in found.items():
            if name == "whole":
                continue
            features = loop_features(one.analysis.memory, item.loops[0], int(name), ceilings)
            pair = max(ratio(samples.decisive_ms, whole).median, 1e-3)
            group = f"{item.key}@{one.described.length}"
            self._samples.append(Sample(features, math.log(pair), group, one.described.length))

    def _fill_whole_ms(self, one: _Length, ceilings: Ceilings) -> None:
        """Classes that were not timed: the roofline, scaled to the measured whole model."""
        scale = one.unchunked_ms / 1e3 / graph_seconds(one.analysis.sized, ceilings)
        for item in one.analysis.space.classes:
            loop = item.loops[0]
            estimate = loop_seconds(loop, loop.extent, ceilings) * scale * 1e3
            one.whole_ms.setdefault(item.key, max(estimate, 1e-4))

    def _tune(self, one: _Length, model: CostModel, ceilings: Ceilings) -> LengthResult:
        """Rounds of proposing, confirming and refitting; then the finalists together."""
        search, confirm = self._config.search, self._config.confirm
        length = one.described.length
        space = one.analysis.space
        one.cost = PlanCost(
            one.analysis.memory, space.classes, model, ceilings, one.unchunked_ms, one.whole_ms
        )
        runs = len(one.limits) * confirm.top_k
        steps = 1 + len(one.limits) + search.rounds * (2 + runs)
        self._progress.phase(f"length {length}: search and real runs", steps)
        unchanged = Plan(one.analysis.graph.fingerprint)
        for number in range(search.rounds):
            seeds = self._seeds(one)
            proposals = propose(
                space,
                one.cost.predict,
                replace(search, seed=search.seed + number),
                seeds=seeds,
                loosest_budget_bytes=_loosest(one.limits),
            )
            self._progress.step()
            # what apply() would take without a database is run too: tuned plans must beat it
            wanted = [] if number else [unchanged, *self._analytic(one)]
            wanted += self._most_promising(one, proposals)
            fresh = [plan for plan in dict.fromkeys(wanted) if plan not in one.confirmed]
            self._confirm(one, fresh)
            if not fresh:
                break
            one.cost = one.cost.corrected(self._latencies(one))
        return self._finish(one)

    def _seeds(self, one: _Length) -> list[Mapping[str, int]]:
        """What the selectors find: by the present cost, by the paper's, and without data."""
        assert one.cost is not None
        found: list[Mapping[str, int]] = []
        selectors = [Selector(one.analysis.space, one.cost.extra_seconds)]
        if not one.confirmed:
            (paper,) = create("macro_micro")
            cost = replace(one.cost, model=paper.fit(self._samples), _cache={})
            selectors += [Selector(one.analysis.space, cost.extra_seconds), one.analysis.selector]
        known = {item.regions: item.key for item in one.analysis.space.classes}
        for selector in selectors:
            for limit in self._limits(one):
                try:
                    if limit is None:
                        selected = selector.lowest(one.unchunked_ms / 1e3, SLOWEST)
                    else:
                        selected = selector.within(limit)
                except BudgetError:
                    continue  # said before; other selectors and the study go on looking
                found.append({known[c.regions]: c.chunk_size for c in selected.plan.choices})
        return found

    def _analytic(self, one: _Length) -> list[Plan]:
        """The plan that is chosen without data, for each budget that it can meet."""
        found = []
        for limit in one.limits.values():
            try:
                if limit is None:
                    selected = one.analysis.selector.lowest(one.analysis.unchunked_s, SLOWEST)
                else:
                    selected = one.analysis.selector.within(limit)
            except BudgetError:
                continue  # said when the limits were resolved
            found.append(selected.plan)
        return found

    def _limits(self, one: _Length) -> list[int | None]:
        """The limits that predictions must meet: lower than the budgets by as much as the peaks
        measured so far exceed their predictions."""
        worst = max(
            (done.peak_bytes / done.predicted_bytes for done in one.confirmed.values()
             if done.status == "ok" and done.predicted_bytes),
            default=1.0,
        )  # fmt: skip
        return [
            None if limit is None else int(limit / max(1.0, worst)) for limit in one.limits.values()
        ]

    def _most_promising(self, one: _Length, proposals: Sequence[Proposal]) -> list[Plan]:
        """For each budget, the plans predicted fastest that were not run yet."""
        found: list[Plan] = []

        def order(proposal: Proposal) -> tuple[float, ...]:
            # gains of less than a hundredth are no reason for further loops
            prediction = proposal.prediction
            share = round(prediction.latency_ms / one.unchunked_ms, 2)
            return (share, len(proposal.plan.choices), prediction.latency_ms, prediction.peak_bytes)

        slowest = SLOWEST * one.unchunked_ms
        for limit in self._limits(one):
            fresh = [p for p in proposals if p.plan not in one.confirmed and p.plan not in found]
            if limit is None:
                fresh = [p for p in fresh if p.prediction.latency_ms <= slowest]
                fresh.sort(key=lambda p: (p.prediction.peak_bytes, p.prediction.latency_ms))
            else:
                fresh = [p for p in fresh if p.prediction.peak_bytes <= limit]
                fresh.sort(key=order)
            found.extend(p.plan for p in fresh[: self._config.confirm.top_k])
        return found

    def _confirm(self, one: _Length, plans: Sequence[Plan]) -> None:
        """Run each plan once for its peak and outputs, then time all that passed in turns."""
        length, free = one.described.length, one.described.free_bytes
        checked = []
        for plan in plans:
            predicted = one.analysis.memory.profile(plan.choices).peak_bytes
            if predicted > free:
                reason = f"needs {mib(predicted)}, {mib(free)} are free"
                status = Status.OOM_PREDICTED.value
                done = self._measurer.not_run(length, plan, status, reason)
            else:
                done = self._measurer.check(length, plan, one.reference)
            one.confirmed[plan] = done
            if done.status == "ok":
                checked.append(done)
            else:
                self._progress.note(
                    f"length {length}: a plan was not confirmed: {done.status}: {done.reason}"
                )
            self._progress.step()
        for done in self._measurer.together(length, checked, one.reference) if checked else ():
            one.confirmed[done.plan] = done
        self._progress.step()

    def _latencies(self, one: _Length) -> list[tuple[Plan, float]]:
        """Confirmed plans with their latency, carried over by the reference run beside each."""
        base = median(one.baseline.eager.decisive_ms)
        return [
            (done.plan, base * ratio(done.samples.decisive_ms, done.reference.decisive_ms).median)
            for done in one.confirmed.values()
            if done.status == "ok"
        ]

    def _finish(self, one: _Length) -> LengthResult:
        """Time the finalists in turns and keep the frontier."""
        length = one.described.length
        good = [done for done in one.confirmed.values() if done.status == "ok"]
        rows = [_row(done) for done in good]
        names = list(one.limits.values())
        finalists = {row.plan for limit in names if (row := best_within(rows, limit)) is not None}
        for row in frontier(rows):
            if len(finalists) < FINALISTS:
                finalists.add(row.plan)
        chosen = [done for done in good if done.plan in finalists]
        if chosen:
            again = self._measurer.together(length, chosen, one.reference, more=4)
            rows = [_row(done) for done in again if done.status == "ok"] or rows
        kept = frontier(rows)
        errors = [
            abs(done.predicted_bytes / done.requested_bytes - 1)
            for done in good
            if done.requested_bytes
        ]
        budgets = tuple(
            BudgetResult(budget, limit, best_within(rows, limit))
            for budget, limit in one.limits.items()
        )
        # a budget's own plan stays, even where a lower peak is as fast within the noise
        extra = [b.row for b in budgets if b.row is not None and b.row not in kept]
        unique = {row.plan: row for row in (*kept, *extra)}
        eager = Reference(
            one.baseline.peak_bytes or one.described.eager_peak_bytes,
            0.0 if one.reference is not None else median(one.baseline.eager.decisive_ms),
        )
        return LengthResult(
            length,
            eager,
            "eager" if one.reference is None else "lowest plan",
            budgets,
            tuple(sorted(unique.values(), key=lambda row: (row.peak_bytes, row.ratio))),
            tuple(one.confirmed.values()),
            max(errors, default=math.nan),
            self._target,
        )

    def _entry(
        self, one: _Length, result: LengthResult, environment: Mapping[str, str]
    ) -> GraphEntry:
        described = one.described
        length = LengthEntry(result.length, described.shapes, result.eager, result.frontier)
        first = self._config.budgets[0] if self._config.budgets else None
        return GraphEntry(
            described.graph.fingerprint, environment, described.bindings, first, (length,)
        )


def _row(done: Confirmed) -> PlanRow:
    found = ratio(done.samples.decisive_ms, done.reference.decisive_ms)
    return PlanRow(
        done.plan, done.peak_bytes, done.predicted_bytes, median(done.samples.decisive_ms),
        found.median, found.low, found.high,
    )  # fmt: skip


def _loosest(limits: Mapping[Budget, int | None]) -> int | None:
    known = [limit for limit in limits.values() if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def _scores_text(model: CostModel, scores: Mapping[str, Score]) -> str:
    if not scores:
        return f"cost model: {model.kind} (too few timings to compare models)"
    parts = [
        f"{kind}: error {score.error:.3f}, pairs {score.pairwise_accuracy:.2f}, "
        f"regret {score.regret:.3f}"
        for kind, score in scores.items()
    ]
    first = next(iter(scores.values()))
    return (
        f"cost model used: {model.kind}. On {first.samples} timings with held-out "
        f"{first.held_out} (error of log time, pairwise accuracy, top-1 regret): {'; '.join(parts)}"
    )


