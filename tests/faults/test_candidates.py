"""Candidates that hang, crash, exhaust memory, give wrong numbers or spoil the model: each costs
only itself, and has its status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cost_models.assumed import default_ceilings
from search_space.plan import Choice, Plan, encode_plan
from tests.faults import defective_factory as defects
from tests.faults.watch import left_over
from tests.tuner.campaigns import campaign
from tuner.campaign import run_campaign
from tuner.config import CampaignConfig, parse_config
from tuner.journal import MOST_DEATHS, Journal
from tuner.ledger import Ledger, read_ledger
from tuner.measured import Confirmed
from tuner.measurer import Measurer
from tuner.runtime.analysis import Analysis

FACTORY = Path(defects.__file__)
HANGS_S = 20
"""A time-out that slow machines, which capture the model in a new process first, do not reach."""


def configured(folder: Path, **changes: Any) -> CampaignConfig:
    values = campaign(folder, seq_lens=[defects.ROWS], budgets=[0.5], **changes)
    values["model"] = {"id": "defective", "factory": f"{FACTORY}:defective"}
    values["confirm"]["timeout_s"] = HANGS_S
    values["engine"] = {"host_memory_bytes": "8GiB"}
    return parse_config(values, folder)


@dataclass
class Bench:
    """A measurer of the defective model, and its one plan in chunks of any size."""

    measurer: Measurer
    analysis: Analysis
    output: Path

    def plan(self, *sizes: int) -> list[Plan]:
        """The largest class of rows, in chunks of these sizes."""
        classes = [c for c in self.analysis.space.classes if c.extent == defects.ROWS]
        largest = max(classes, key=lambda item: item.saves_bytes)
        fingerprint = self.analysis.graph.fingerprint
        return [Plan(fingerprint, (Choice(largest.regions, size),)) for size in sizes]

    def check(self, size: int) -> Confirmed:
        (plan,) = self.plan(size)
        return self.measurer.check(defects.ROWS, plan, None)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("candidates")
    config = configured(folder)
    with Ledger(config.output / "ledger.jsonl") as ledger:
        journal = Journal(ledger)
        with Measurer(config, journal) as measurer:
            measurer.environment()
            described = measurer.describe(defects.ROWS)
            analysis = Analysis(described.graph, described.bindings, default_ceilings("cpu"))
            assert measurer.baseline(defects.ROWS).status == "ok"
            yield Bench(measurer, analysis, config.output)
        assert left_over(config.output) == 0


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_each_defect_costs_only_its_candidate_and_has_its_status(bench: Bench) -> None:
    expected = {
        defects.HANG: ("timeout", f"{HANGS_S} s"),
        defects.CRASH: ("crash", "SIGSEGV"),
        defects.NAN: ("wrong_output", "NaN"),
        defects.WRONG: ("wrong_output", "differs by"),
        defects.HUNGRY: ("oom", "MemoryError"),
        defects.REFUSED: ("oom", "allocate memory"),
    }
    for size, (status, reason) in expected.items():
        found = bench.check(size)
        assert (found.status, reason in found.reason) == (status, True), found.reason
    good = bench.check(2)
    assert good.status == "ok", good.reason
    rows = list(read_ledger(bench.output / "ledger.jsonl"))
    told = {
        r["plan"]["choices"][0]["chunk_size"]: r["status"]
        for r in rows
        if r.get("stage") == "check" and "status" in r
    }
    assert told == {**{size: status for size, (status, _) in expected.items()}, 2: "ok"}


@pytest.mark.faults
def test_a_candidate_that_spoils_the_model_does_not_harm_the_next(bench: Bench) -> None:
    assert bench.check(defects.SPOILS).status == "ok", "its own outputs were right"
    after = bench.check(1)
    assert after.status == "ok", after.reason
    assert after.max_abs_diff < 1e-5


@pytest.mark.faults
def test_one_bad_plan_does_not_spoil_a_batch(bench: Bench) -> None:
    # it passed its check before it went bad: its batch is timed again without it
    good, bad = bench.plan(2, defects.CRASH)
    checked = [Confirmed(plan, "ok", "", 1, 1, 1) for plan in (good, bad)]
    found = bench.measurer.together(defects.ROWS, checked, None)
    assert [one.status for one in found] == ["ok", "crash"]
    assert len(found[0].samples.decisive_ms) == 3


@pytest.mark.faults
def test_what_is_known_is_not_measured_again(bench: Bench) -> None:
    # (the tests before may have run in another process)
    first = [bench.check(size).status for size in (defects.CRASH, 2)]
    before = (bench.output / "ledger.jsonl").read_bytes()
    assert [bench.check(size).status for size in (defects.CRASH, 2)] == first == ["crash", "ok"]
    assert (bench.output / "ledger.jsonl").read_bytes() == before


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_campaign_goes_round_its_bad_candidates(tmp_path: Path) -> None:
    # (of the regions that hang alone one will do)
    few = {"kind": "linear", "timings_s": 0.01}
    config = configured(tmp_path, search={"n_trials": 30, "rounds": 2}, cost_model=few)
    (one,) = run_campaign(config).lengths
    assert one.frontier
    bad = {getattr(defects, name) for name in ("HANG", "CRASH", "NAN", "WRONG", "HUNGRY")}
    for row in one.frontier:
        assert not {choice.chunk_size for choice in row.plan.choices} & bad
    statuses = {run.status for run in one.confirmed}
    assert "ok" in statuses


@pytest.mark.faults
def test_a_candidate_that_takes_the_campaign_down_is_given_up(
    bench: Bench, tmp_path: Path
) -> None:
    assert bench.check(2).status == "ok"
    config = configured(tmp_path)
    known = list(read_ledger(bench.output / "ledger.jsonl"))
    (plan,) = bench.plan(2)
    wanted = encode_plan(plan)
    results = [r for r in known if "key" in r]
    keys = [r["key"] for r in results if r["kind"] == "baseline" or r.get("plan") == wanted]
    with Ledger(config.output / "ledger.jsonl") as ledger:
        for _ in range(MOST_DEATHS):
            ledger.append("campaign", {})
            ledger.append("begin", {"keys": keys})
    with (
        Ledger(config.output / "ledger.jsonl") as ledger,
        Measurer(config, Journal(ledger)) as measurer,
    ):
        measurer.environment()
        measurer.describe(defects.ROWS)
        # without the unchunked model nothing goes on: it is tried all the same
        assert measurer.baseline(defects.ROWS).status == "ok"
        found = measurer.check(defects.ROWS, plan, None)
    assert found.status == "crash"
    assert "the campaign itself died 4 times" in found.reason
