"""A campaign: capture, analyse, time regions, propose, confirm, refit, and write the database.

Each length goes through the same steps, one function each, in :mod:`tuner.steps`; what they share
is in :class:`~tuner.steps.state.State`. Proposals come from predictions alone, and only confirmed
plans are kept.

A campaign that is started again in the same output folder goes on: every step runs again, and is
given from the ledger what was measured before (:mod:`tuner.journal`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from cost_models.base import Sample
from cost_models.stored import read_model
from search_space.errors import BudgetError, ConfigError, MeasurementError
from tuner.campaign_records import Records
from tuner.campaign_result import CampaignResult, expected_seconds
from tuner.config import CampaignConfig, LimitsConfig
from tuner.database import check_writable
from tuner.engine.local import mark
from tuner.engine.slots import engine_device
from tuner.journal import Journal
from tuner.ledger import Ledger
from tuner.limits import Clock
from tuner.measure.isolate import end_leftovers
from tuner.measure.timing import median
from tuner.measurer import Measurer
from tuner.progress import Progress, Silent
from tuner.steps.analyse import analyse
from tuner.steps.baseline import run_baselines
from tuner.steps.confirm import run_rounds, tuning_title
from tuner.steps.finish import finish, write
from tuner.steps.regions import TIMING, choose_model, time_regions
from tuner.steps.state import State
from tuner.stopping import Stopped, stoppable


def run_campaign(
    config: CampaignConfig,
    progress: Progress | None = None,
    *,
    fresh: bool = False,
    samples: Sequence[Sample] = (),
    limits: LimitsConfig | None = None,
) -> CampaignResult:
    """Tune a model as the configuration says, and write its plans to the database. With targets,
    each distinct one is tuned as a model of its own: budgets are shares of its own eager peak.

    Args:
        fresh: start over; otherwise what the output folder's ledger knows is not measured again.
        samples: timings of other campaigns on this device, for the cost model to learn from.
        limits: in place of the configuration's: this campaign's part of a sweep's.

    Raises:
        ConfigError, CaptureError: the configuration's model or inputs are wrong.
        DatabaseError, ModelFileError: the plan database, or the model to start from, is damaged or
            cannot be written or read; nothing is measured then.
        BudgetError: a budget cannot be met at some length; nothing is measured then.
        MeasurementError: nothing could be measured.
        Stopped: Ctrl-C or SIGTERM; what was measured is in the ledger, and the best so far of each
            length in the database.
    """
    progress = progress or Silent()
    config = replace(config, device=engine_device(config))
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output: {config.output} cannot be written: {error}; name another folder"
        ) from error
    text = yaml.safe_dump(config.plain(), sort_keys=False)
    with stoppable(), Ledger(config.output / "ledger.jsonl", fresh=fresh) as ledger:
        # only now: another campaign may be running there, and the ledger knows
        (config.output / "config.yaml").write_text(text, encoding="utf-8")
        end_leftovers(mark(config))
        journal = Journal(ledger)
        if journal.recovered:
            progress.note(f"going on with {journal.recovered} measurements from {ledger.path}")
        clock = Clock(limits or config.limits, journal)
        if clock.wall_left_s is not None:
            progress.limit(clock.wall_left_s)
        try:
            journal.note("campaign", {"config": config.plain()})
            result = _tune(config, journal, clock, progress, samples)
        except Stopped as stopped:
            journal.note("stopped", {"reason": str(stopped)})
            raise
        finally:
            if left := end_leftovers(mark(config)):
                progress.note(f"{left} processes that candidates had left behind were ended")
        journal.note("finished", asdict(journal.spent()))
        return result


def _tune(
    config: CampaignConfig,
    journal: Journal,
    clock: Clock,
    progress: Progress,
    samples: Sequence[Sample],
) -> CampaignResult:
    with Measurer(config, journal) as measurer:
        if config.model.targets is None:
            state = _start(config, measurer, clock, progress, Records(journal.keep), samples)
            return _run_steps(state)
        progress.note("starting the measuring process and building the model")
        names = measurer.targets(min(config.seq_lens))
    found: dict[str, CampaignResult] = {}
    failed: dict[str, BudgetError | MeasurementError] = {}
    for place, name in enumerate(names, 1):
        progress.part(f"target {name}", place, len(names))
        journal.note("target", {"target": name})
        with Measurer(config, journal, name) as measurer:
            try:
                records = Records(journal.keep, name)
                own = clock.part(len(names) - place + 1)
                state = _start(config, measurer, own, progress, records, samples, name)
                found[name] = _run_steps(state)
            except (BudgetError, MeasurementError) as error:
                # one that cannot meet the budgets, or cannot be measured, does not keep others
                # from it
                failed[name] = error
                journal.note("target", {"target": name, "status": "refused", "reason": str(error)})
                progress.note(f"target {name} is left out: {error}")
    return _together(found, failed)


def _together(
    found: Mapping[str, CampaignResult],
    failed: Mapping[str, BudgetError | MeasurementError],
) -> CampaignResult:
    """The results of all targets as one."""
    if not found:
        lines = "\n".join(f"target {name}: {error}" for name, error in failed.items())
        unmet = [error for error in failed.values() if isinstance(error, BudgetError)]
        if len(unmet) < len(failed):
            raise MeasurementError(lines)
        raise BudgetError(lines, lowest_bytes=max(error.lowest_bytes for error in unmet))
    return CampaignResult(
        tuple(one for result in found.values() for one in result.lengths),
        ", ".join(dict.fromkeys(result.model_used for result in found.values())),
        {
            kind if len(found) == 1 else f"{name}: {kind}": score
            for name, result in found.items()
            for kind, score in result.scores.items()
        },
        tuple(dict.fromkeys(path for result in found.values() for path in result.files)),
        tuple(dict.fromkeys(one for result in found.values() for one in result.samples)),
    )


def _start(
    config: CampaignConfig,
    measurer: Measurer,
    clock: Clock,
    progress: Progress,
    records: Records,
    samples: Sequence[Sample],
    target: str = "",
) -> State:
    progress.note("starting the measuring process and building the model")
    # (before anything is measured for them)
    start = None if config.cost_model.start is None else read_model(config.cost_model.start)
    environment, ceilings = measurer.environment()
    check_writable(config.plans, environment["device_name"], config.model.id)
    progress.note(
        f"device {environment['device_name']}: {ceilings.copy_bytes_per_s / 1e9:.1f} GB/s, "
        f"{ceilings.matmul_flops_per_s / 1e9:.0f} GFLOP/s, {ceilings.launch_s * 1e6:.1f} us an op"
    )
    state = State(
        config, measurer, progress, records, target, environment, ceilings, clock, start=start
    )
    state.samples.extend(samples)
    return state


def _run_steps(state: State) -> CampaignResult:
    """All steps in order."""
    analyse(state)
    run_baselines(state)
    _expect(state)
    time_regions(state)
    choose_model(state)
    results = []
    files: dict[Path, None] = {}
    for place, one in enumerate(state.lengths):
        allowance = state.clock.allowance(len(state.lengths) - place)
        run_rounds(state, one, allowance)
        result = finish(state, one, allowance)
        assert one.cost is not None
        state.records.finished(result, one.analysis, one.cost)
        results.append(result)
        if result.frontier:
            # written length by length: what is confirmed survives whatever comes after
            files[write(state, one, result)] = None
    if not files:
        raise MeasurementError(
            "no plan could be confirmed at any length; the ledger "
            f"{state.config.output / 'ledger.jsonl'} says why, run by run. Where limits ended it, "
            "raise them and run again: it goes on where it is"
        )
    assert state.model is not None
    return CampaignResult(
        tuple(results), state.model.kind, state.scores, tuple(files), tuple(state.samples)
    )


def _expect(state: State) -> None:
    """Tell how long what is left should take, now that the model was run."""
    seconds = {TIMING: state.config.cost_model.timings_s * len(state.lengths)}
    for one in state.lengths:
        run_s = median(one.baseline.unchunked.wall_ms) / 1e3
        seconds[tuning_title(one)] = expected_seconds(state.config, run_s)
    state.progress.expect(seconds)
