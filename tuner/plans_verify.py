"""Do plans still hold? A few are run again, against the eager model in turns, as when they were
tuned; what differs by more than the noise of both measurements has drifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from search_space.errors import AutoChunkError, ConfigError, MeasurementError
from search_space.plan import Plan
from tuner.config import CampaignConfig
from tuner.entries import GraphEntry, LengthEntry, PlanRow
from tuner.factory import Inputs, Subject, subjects
from tuner.frontier import NOISE
from tuner.measure.backends import backend_for, resolve_device
from tuner.measure.compare import compare
from tuner.measure.protocol import Backend, Ratio, Repeats
from tuner.measure.timing import interleave, median, ratio
from tuner.measure.turns import PATIENCE_S
from tuner.runtime.apply import apply_plan
from tuner.runtime.captures import Captures
from tuner.runtime.kernels import Forms
from tuner.runtime.lookup import Judged, Plans

PEAK_NOISE = 0.01
"""Allocators round; a peak that differs by less is the same."""


@dataclass(frozen=True)
class Verified:
    """A row of the database, run again.

    Attributes:
        now: the row as measured here; None where it did not run or its outputs were wrong, as
            ``problem`` says.
        reference_ms: what it was timed against: the eager model, or the lowest plan where that
            could not run when the plans were tuned.
    """

    judged: Judged
    entry: LengthEntry
    row: PlanRow
    now: PlanRow | None
    reference_ms: float
    problem: str = ""

    @property
    def drift(self) -> str:
        """What has changed by more than the noise; empty if nothing."""
        if self.now is None:
            return self.problem
        found = []
        apart = self.now.ratio_low > self.row.ratio_high or self.now.ratio_high < self.row.ratio_low
        if apart and abs(self.now.ratio / self.row.ratio - 1) > NOISE:
            found.append(f"time ratio {self.row.ratio:.3f} -> {self.now.ratio:.3f}")
        if abs(self.now.peak_bytes / max(self.row.peak_bytes, 1) - 1) > PEAK_NOISE:
            found.append(f"peak {self.row.peak_bytes} -> {self.now.peak_bytes} bytes")
        return ", ".join(found)


def verify(
    config: CampaignConfig, plans_of: Callable[[str], Plans], most: int | None
) -> Iterator[Verified]:
    """Run plans of a configuration's model again, in this process.

    Args:
        plans_of: the database, judged for a device.
        most: plans a graph, spread over its lengths and frontiers; None for all.

    Raises:
        ConfigError: the database has nothing for the model as the configuration makes it.
    """
    device = resolve_device(config.device)
    plans, backend = plans_of(device), backend_for(device)
    found = False
    for subject in subjects(config.model, device, config.folder, min(config.seq_lens)):
        captures = Captures(subject.model)
        for judged in _judged(config, subject, captures, plans):
            found = True
            for entry, rows in _selected(judged.entry, most):
                yield from _verify_length(
                    _Run(config, subject, captures, backend, entry.length), judged, entry, rows
                )
    if not found:
        raise ConfigError(
            f"the database has no plans for {config.model.id} as the configuration makes it: "
            "another dtype, device, attention implementation or torch version gives another graph"
        )


def _judged(
    config: CampaignConfig, subject: Subject, captures: Captures, plans: Plans
) -> list[Judged]:
    """What the database has for the graphs of the configuration's lengths, with its kernels."""
    found = {}
    forms = Forms(config.kernels, lambda fingerprint: plans.judged(fingerprint) is not None)
    for length in config.seq_lens:
        args, kwargs = subject.inputs(length)
        located = captures.locate(args, kwargs)
        fingerprint = forms.chosen(located.captured, located.bindings).graph.fingerprint
        judged = plans.judged(fingerprint)
        if judged is not None:
            found[fingerprint] = judged
    return list(found.values())


def _selected(
    entry: GraphEntry, most: int | None
) -> list[tuple[LengthEntry, list[PlanRow]]]:
    """Some rows, evenly from the first length's lowest plan to the last one's fastest."""
    rows = [(length, row) for length in entry.lengths for row in length.frontier]
    if most is not None and len(rows) > most:
        last = max(most - 1, 1)
        rows = [rows[(len(rows) - 1) * place // last] for place in range(most)]
    return [
        (length, [row for at, row in rows if at is length])
        for length in entry.lengths
        if any(at is length for at, _ in rows)
    ]


@dataclass(frozen=True)
class _Run:
    """How the rows of one length are run."""

    config: CampaignConfig
    subject: Subject
    captures: Captures
    backend: Backend
    length: int

    def inputs(self) -> Inputs:
        return self.subject.inputs(self.length)

    def planned(self, plan: Plan, inputs: Inputs) -> Callable[[], Any]:
        args, kwargs = inputs
        applied = apply_plan(self.subject.model, plan, args, kwargs, captures=self.captures)
        return partial(applied, *args, **kwargs)


def _verify_length(
    run: _Run, judged: Judged, entry: LengthEntry, rows: list[PlanRow]
) -> Iterator[Verified]:
    inputs = run.inputs()
    calls: dict[str, Callable[[], Any]] = {}
    problems: dict[int, str] = {}
    peaks: dict[int, int] = {}
    confirm = run.config.confirm
    with torch.no_grad():
        # where the eager model could not run, ratios are of the lowest plan's time
        calls["reference"] = (
            partial(run.subject.model, *inputs[0], **inputs[1])
            if entry.eager.latency_ms
            else run.planned(entry.frontier[0].plan, inputs)
        )
        expected = calls["reference"]()
        for place, row in enumerate(rows):
            try:
                call = run.planned(row.plan, inputs)
                call()
                output, peak = run.backend.peak(call)
            except (AutoChunkError, RuntimeError, MemoryError) as error:
                problems[place] = f"does not run: {type(error).__name__}: {str(error)[:200]}"
                continue
            difference = compare(output, expected, confirm.rtol, confirm.atol)
            if difference.equal:
                calls[str(place)], peaks[place] = call, peak.activation_bytes
            else:
                problems[place] = f"wrong outputs: {difference.reason}"
        del expected
        repeats = Repeats(confirm.warmup, max(confirm.repeats, 6), 3 * max(confirm.repeats, 6))
        with run.backend.turn(PATIENCE_S) as alone:
            if not alone:
                raise MeasurementError(
                    f"a campaign keeps {run.backend.device} busy; verify the plans after its end"
                )
            samples = interleave(run.backend, calls, repeats)
    base = samples["reference"].decisive_ms
    for place, row in enumerate(rows):
        now = None
        if place not in problems:
            times = samples[str(place)].decisive_ms
            now = _measured(row, peaks[place], median(times), ratio(times, base))
        yield Verified(judged, entry, row, now, median(base), problems.get(place, ""))


def _measured(row: PlanRow, peak: int, latency_ms: float, again: Ratio) -> PlanRow:
    return replace(
        row, peak_bytes=peak, latency_ms=latency_ms, ratio=again.median, ratio_low=again.low,
        ratio_high=again.high,
    )  # fmt: skip


def renewed(entry: GraphEntry, verified: list[Verified], here: Mapping[str, str]) -> GraphEntry:
    """An entry as it was measured here and now: rows that did not run are left out.

    Args:
        verified: every row of the entry, run again.

    Raises:
        MeasurementError: no row ran.
    """
    lengths = []
    for length in entry.lengths:
        own = [one for one in verified if one.entry is length and one.now is not None]
        rows = tuple(one.now for one in own if one.now is not None)
        if rows:
            eager = length.eager
            if eager.latency_ms:
                eager = replace(eager, latency_ms=own[0].reference_ms)
            lengths.append(replace(length, eager=eager, frontier=rows, environment=None))
    if not lengths:
        raise MeasurementError("none of the plans runs here, so that the database stays as it is")
    environment = {**here, "dtype": entry.environment.get("dtype", "unknown")}
    return replace(entry, environment=environment, lengths=tuple(lengths))
