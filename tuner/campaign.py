"""A campaign: capture, analyse, time regions, propose, confirm, refit, and write the database.

Each length goes through the same steps, one function each, in :mod:`tuner.steps`; what they share
is in :class:`~tuner.steps.state.State`. Proposals come from predictions alone, and only confirmed
plans are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from search_space.errors import BudgetError, ConfigError, MeasurementError
from tuner.campaign_records import Records
from tuner.campaign_result import CampaignResult, expected_seconds
from tuner.config import CampaignConfig
from tuner.ledger import Ledger
from tuner.measure.backends import resolve_device
from tuner.measure.timing import median
from tuner.measurer import Measurer
from tuner.progress import Progress, Silent
from tuner.steps.analyse import analyse
from tuner.steps.baseline import run_baselines
from tuner.steps.confirm import run_rounds, tuning_title
from tuner.steps.finish import finish, write
from tuner.steps.regions import TIMING, choose_model, time_regions
from tuner.steps.state import State


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
            return _run_steps(_start(config, measurer, progress, Records(ledger.append)))
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
    for place, name in enumerate(names, 1):
        progress.part(f"target {name}", place, len(names))
        ledger.append("target", {"target": name})
        with Measurer(config, ledger, name) as measurer:
            try:
                records = Records(ledger.append, name)
                found[name] = _run_steps(_start(config, measurer, progress, records, name))
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


def _start(
    config: CampaignConfig,
    measurer: Measurer,
    progress: Progress,
    records: Records,
    target: str = "",
) -> State:
    progress.note("starting the measuring process and building the model")
    environment, ceilings = measurer.environment()
    progress.note(
        f"device {environment['device_name']}: {ceilings.copy_bytes_per_s / 1e9:.1f} GB/s, "
        f"{ceilings.matmul_flops_per_s / 1e9:.0f} GFLOP/s, {ceilings.launch_s * 1e6:.1f} us an op"
    )
    return State(config, measurer, progress, records, target, environment, ceilings)


def _run_steps(state: State) -> CampaignResult:
    """All steps in order."""
    analyse(state)
    run_baselines(state)
    _expect(state)
    time_regions(state)
    choose_model(state)
    results = []
    files: dict[Path, None] = {}
    for one in state.lengths:
        run_rounds(state, one)
        result = finish(state, one)
        assert one.cost is not None
        state.records.finished(result, one.analysis, one.cost)
        results.append(result)
        if result.frontier:
            # written length by length: what is confirmed survives whatever comes after
            files[write(state, one, result)] = None
    if not files:
        raise MeasurementError(
            "no plan could be confirmed at any length; the ledger "
            f"{state.config.output / 'ledger.jsonl'} says why, run by run"
        )
    assert state.model is not None
    return CampaignResult(tuple(results), state.model.kind, state.scores, tuple(files))


def _expect(state: State) -> None:
    """Tell how long what is left should take, now that the model was run."""
    seconds = {TIMING: state.config.cost_model.timings_s * len(state.lengths)}
    for one in state.lengths:
        run_s = median(one.baseline.unchunked.wall_ms) / 1e3
        seconds[tuning_title(one)] = expected_seconds(state.config, run_s)
    state.progress.expect(seconds)
