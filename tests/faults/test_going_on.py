"""Campaigns that end by their limits and go on, and sweeps over several slots: real runs, no kills.
They take longer than the other tests of campaigns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.watch import Watch
from tests.tuner.campaigns import campaign, write
from tuner.campaign import run_campaign
from tuner.config import parse_config
from tuner.progress import Silent
from tuner.sweep import load_sweep, run_sweep

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def small(folder: Path, **changes: Any) -> dict[str, Any]:
    values = campaign(folder, seq_lens=[48], **changes)
    values["cost_model"] = {"kind": "linear", "timings_s": 0.3}
    values["model"]["kwargs"] = {"layers": 1, "width": 16, "heads": 2}
    return values


def test_a_campaign_ends_by_its_limits_and_goes_on_with_larger_ones(tmp_path: Path) -> None:
    values = small(tmp_path, limits={"runs": 2})
    values["confirm"]["top_k"] = 4
    watch = Watch(tmp_path / "runs" / "ledger.jsonl")
    (first,) = run_campaign(parse_config(values, tmp_path)).lengths
    watch.look()
    assert [record["kind"] for record in watch.records()][-1] == "finished"
    assert len(first.confirmed) == 2 and first.frontier
    values["limits"] = {"runs": 100}
    (second,) = run_campaign(parse_config(values, tmp_path)).lengths
    watch.look()
    assert len(second.confirmed) > 2
    assert {run.plan for run in first.confirmed} < {run.plan for run in second.confirmed}
    assert watch.lost == watch.tally().doubled == watch.tally().again == 0
    # going on with what is finished measures nothing, and gives the same
    before = watch.tally()
    assert run_campaign(parse_config(values, tmp_path)).lengths == (second,)
    assert watch.tally() == before


def test_a_sweep_uses_all_slots_and_what_it_learnt_before(tmp_path: Path) -> None:
    slots = min(2, len(os.sched_getaffinity(0)))
    values = small(tmp_path, engine={"slots": slots})
    values["search"] = {"n_trials": 20, "rounds": 1}
    values["sweep"] = [{"seq_lens": [64], "model": {"id": "longer"}}, {"model": {"id": "shorter"}}]
    configs = load_sweep(write(tmp_path, values))
    assert [config.model.id for config in configs] == ["shorter", "longer"]
    members = run_sweep(configs, Silent())
    results = [member.result for member in members]
    assert all(result is not None and result.files for result in results)
    first, second = (result for result in results if result is not None)
    assert first.samples and second.samples[: len(first.samples)] == first.samples
    assert len(second.samples) > len(first.samples)
    for config in configs:
        records = list(Watch(config.output / "ledger.jsonl").records())
        used = {record["slot"] for record in records if record["kind"] == "region"}
        assert used == ({"cpu:0", "cpu:1"} if slots == 2 else {"cpu"})
        # finalists are set against each other, and therefore timed on one device
        assert len({r["slot"] for r in records if r.get("stage") == "final"}) == 1
