"""Profiling: times region classes alone, at several chunk sizes and lengths, and learns from it.

A campaign confirms whole plans; a profile gathers what cost models learn from, thousands of samples
in minutes: each class on random inputs of the right shapes, whole and in chunks, in turns, in the
measuring process. Every sample goes to the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cost_models.base import Sample
from cost_models.ceilings import Ceilings
from cost_models.times import graph_parts
from cost_models.whole_times import Unchunked
from search_space.classes import RegionClass
from search_space.errors import ConfigError, MeasurementError
from search_space.probe import Prober
from tuner.config import CampaignConfig
from tuner.engine.slots import engine_device
from tuner.journal import Journal
from tuner.ledger import Ledger
from tuner.measure.timing import median
from tuner.measurer import Measurer
from tuner.progress import Progress, Silent
from tuner.region_samples import group_of, region_samples, samples_row
from tuner.runtime.analysis import Analysis

COMPILED_STEP = 2
"""Of a grid's sizes, every second is timed compiled."""

ROUNDS = 6
"""Rounds of a region's timings; few enough to be quick, enough to tell how they scatter."""


@dataclass(frozen=True)
class Profiled:
    """What a profile found.

    Attributes:
        device: the device's name.
        ceilings: the device's.
        samples: all of them, by length and class.
        baselines: the unchunked latency at each length where the model ran.
        failed: classes that could not be timed alone; the ledger says how.
    """

    device: str
    ceilings: Ceilings
    samples: tuple[Sample, ...]
    baselines: tuple[Unchunked, ...]
    failed: int


def run_profile(
    config: CampaignConfig,
    seconds: float = 60.0,
    progress: Progress | None = None,
    *,
    most_classes: int | None = None,
) -> Profiled:
    """Time the classes of a campaign's model alone, those that save most first.

    Args:
        seconds: the time that each length may take, about; with ``compile`` as much again.
        most_classes: classes timed at a length, at most; None for all.

    Raises:
        ConfigError, CaptureError: the configuration's model or inputs are wrong.
        MeasurementError: nothing could be measured.
    """
    progress = progress or Silent()
    config = replace(config, device=engine_device(config))
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output: {config.output} cannot be written: {error}; name another folder"
        ) from error
    with Ledger(config.output / "ledger.jsonl") as ledger:
        journal = Journal(ledger)
        journal.note("profile", {"config": config.plain()})
        names: Sequence[str] = ("",)
        if config.model.targets is not None:
            with Measurer(config, journal) as measurer:
                names = measurer.targets(min(config.seq_lens))
        parts = []
        for name in names:
            with Measurer(config, journal, name) as measurer:
                run = _Run(config, measurer, progress, name, seconds, most_classes)
                parts.append(run.all_lengths())
    samples = tuple(sample for part in parts for sample in part.samples)
    baselines = tuple(one for part in parts for one in part.baselines)
    failed = sum(part.failed for part in parts)
    if not samples:
        raise MeasurementError(
            f"no region could be timed alone ({failed} failed); {config.output / 'ledger.jsonl'} "
            "says why, class by class"
        )
    return Profiled(parts[0].device, parts[0].ceilings, samples, baselines, failed)


@dataclass(frozen=True)
class _Run:
    """The profile of one model, or of one of its targets."""

    config: CampaignConfig
    measurer: Measurer
    progress: Progress
    target: str
    seconds: float
    most_classes: int | None

    def all_lengths(self) -> Profiled:
        """Every length of the configuration."""
        environment, ceilings = self.measurer.environment()
        probe = Prober()
        samples: list[Sample] = []
        baselines: list[Unchunked] = []
        failed = 0
        for length in self.config.seq_lens:
            described = self.measurer.describe(length)
            analysis = Analysis(described.graph, described.bindings, ceilings, probe)
            baselines.extend(self._unchunked(analysis, length))
            found, lost = self._length(analysis, ceilings, length)
            samples.extend(found)
            failed += lost
        return Profiled(
            environment["device_name"], ceilings, tuple(samples), tuple(baselines), failed
        )

    @property
    def _name(self) -> str:
        return f"{self.config.model.id} {self.target}".strip()

    def _unchunked(self, analysis: Analysis, length: int) -> Iterator[Unchunked]:
        """The unchanged graph's latency; nothing where it does not run."""
        run = self.measurer.baseline(length)
        if run.status != "ok":
            self.progress.note(f"length {length}: unchunked {run.status}: {run.reason}")
            return
        found = Unchunked(
            self._name, length, graph_parts(analysis.sized, analysis.ceilings),
            median(run.unchunked.decisive_ms),
        )
        self.measurer.keep("unchunked", found.plain())
        yield found

    def _length(
        self, analysis: Analysis, ceilings: Ceilings, length: int
    ) -> tuple[list[Sample], int]:
        space = analysis.space
        # loops inside loops are predicted from what they are made of
        plain = [one for one in zip(space.classes, space.grids, strict=True) if not one[0].inner]
        pairs = sorted(
            plain,
            key=lambda pair: (-pair[0].saves_bytes * len(pair[0].loops), pair[0].key),
        )[: self.most_classes]
        samples, failed = self._timed(analysis, ceilings, length, pairs, compiled=False)
        if self.config.compile is not None and self.config.compile.bodies:
            known = {sample.group for sample in samples}
            again = [pair for pair in pairs if group_of(pair[0], length) in known]
            more, lost = self._timed(analysis, ceilings, length, again, compiled=True)
            samples, failed = samples + more, failed + lost
        return samples, failed

    def _timed(
        self,
        analysis: Analysis,
        ceilings: Ceilings,
        length: int,
        pairs: Sequence[tuple[RegionClass, Sequence[int]]],
        *,
        compiled: bool,
    ) -> tuple[list[Sample], int]:
        """Classes with the sizes of their grids, for as long as a length may take. Compiled ones
        take seconds a size, and so only some sizes are."""
        how = "compiled" if compiled else "alone"
        self.progress.phase(f"{self._name} at length {length}: timing regions {how}", len(pairs))
        ends = time.monotonic() + self.seconds - self.measurer.waited_s
        samples: list[Sample] = []
        failed = 0
        for place, (item, grid) in enumerate(pairs):
            left = ends + self.measurer.waited_s - time.monotonic()
            if left <= 0:
                self.progress.note(
                    f"length {length}: the time is spent; {len(pairs) - place} classes that save "
                    f"least were not timed {how}"
                )
                break
            share = 2 * left / (len(pairs) - place)  # most classes need far less than the first
            found = self.measurer.region(
                length, item, () if compiled else grid, share, ROUNDS,
                compiled_sizes=grid[::COMPILED_STEP] if compiled else (),
            )  # fmt: skip
            if found is None:
                failed += 1
                self.progress.step(f"class {item.key} could not be timed {how}")
                continue
            made = region_samples(analysis.memory, item, found, ceilings, length, self._name)
            self.measurer.keep("samples", samples_row(made))
            samples.extend(made)
            self.progress.step()
        return samples, failed
