"""Campaigns from YAML to the plan database, with real runs in real processes."""

from __future__ import annotations

import base64
import html
import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cost_models.create import COMPARED
from cost_models.stored import read_model
from search_space.errors import (
    BudgetError,
    ConfigError,
    DatabaseError,
    LedgerError,
    MeasurementError,
    ModelFileError,
)
from search_space.plan import Plan, encode_plan
from search_space.space import make_plan
from tests.tuner.campaigns import FACTORY, campaign
from tests.tuner.small_factory import blocks
from tuner import apply
from tuner.campaign import run_campaign
from tuner.campaign_result import CampaignResult, LengthResult
from tuner.card_tables import card_summary
from tuner.config import parse_config
from tuner.database import PlanRow, model_path, read_database
from tuner.environment import device_name
from tuner.journal import Journal
from tuner.ledger import Ledger, read_ledger
from tuner.measure.isolate import UNSTARTED
from tuner.measured import Confirmed
from tuner.measurer import Measurer
from tuner.progress import Best, Silent
from tuner.report.page import render
from tuner.report.read import read_run
from tuner.report.values import plan_key
from tuner.steps import finish as finish_step
from tuner.steps.state import Length, State
from tuner.worker import Session


class Notes(Silent):
    """Keeps what a campaign says."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.found: list[Best] = []
        self.statuses: list[str] = []
        self.texts: list[str] = []

    def phase(self, title: str, total: int) -> None:
        assert total >= 0
        self.phases.append(title)

    def step(self, text: str = "") -> None:
        self.texts.append(text)

    def measured(self, status: str) -> None:
        self.statuses.append(status)

    def best(self, found: Best) -> None:
        self.found.append(found)

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CampaignResult, Notes]:
    """One campaign of two lengths, run once for all tests here."""
    folder = tmp_path_factory.mktemp("campaign")
    notes = Notes()
    # time enough for every class on any machine: how many are timed must not depend on its speed
    values = campaign(folder, cost_model={"timings_s": 60})
    result = run_campaign(parse_config(values, folder), notes)
    return folder, result, notes


Tuned = tuple[Path, CampaignResult, Notes]


def test_every_budget_is_met_by_a_confirmed_plan(tuned: Tuned) -> None:
    _, result, _ = tuned
    assert [one.length for one in result.lengths] == [96, 160]
    for one in result.lengths:
        for budget in one.budgets:
            assert budget.row is not None
            if budget.limit_bytes is not None:
                assert budget.row.peak_bytes <= budget.limit_bytes
            assert budget.row in one.frontier


def test_predicted_peaks_are_within_five_percent_of_measured_ones(tuned: Tuned) -> None:
    _, result, _ = tuned
    runs = [run for one in result.lengths for run in one.confirmed]
    assert len(runs) >= 6
    for run in runs:
        assert run.status == "ok", run.reason
        assert run.predicted_bytes == pytest.approx(run.peak_bytes, rel=0.05)


def test_the_frontier_ascends_in_memory_and_is_backed_by_the_ledger(tuned: Tuned) -> None:
    folder, result, _ = tuned
    records = list(read_ledger(folder / "runs" / "ledger.jsonl"))
    kinds = Counter(record["kind"] for record in records)
    assert kinds["campaign"] == 1
    assert kinds["environment"] == 1
    assert kinds["baseline"] == 2
    assert kinds["region"] >= 4
    measured = {record["peak_bytes"] for record in records if record["kind"] == "plan"}
    for one in result.lengths:
        peaks = [row.peak_bytes for row in one.frontier]
        assert peaks == sorted(peaks)
        assert set(peaks) <= measured


def test_the_resolved_configuration_is_stored(tuned: Tuned) -> None:
    folder, _, _ = tuned
    stored = yaml.safe_load((folder / "runs" / "config.yaml").read_text(encoding="utf-8"))
    assert stored["search"] == {"sampler": "tpe", "n_trials": 40, "seed": 0, "rounds": 2}
    assert stored["device"] == "cpu"
    assert parse_config(stored, folder).plain() == stored


def test_the_cost_model_used_and_its_score_are_told(tuned: Tuned) -> None:
    _, result, notes = tuned
    assert set(result.scores) == set(COMPARED)
    assert result.model_used in result.scores
    for score in result.scores.values():
        assert score.samples >= 12
        assert score.held_out == "lengths"
    (told,) = [text for text in notes.texts if text.startswith("cost model used")]
    assert result.model_used in told
    assert "capture and analysis" in notes.phases


def test_the_ledger_alone_gives_the_report_of_the_campaign(tuned: Tuned) -> None:
    folder, result, _ = tuned
    run = read_run(folder / "runs")
    assert run.complete
    assert not run.passed_over
    for one in result.lengths:
        told = run.lengths["", one.length]
        assert told.frontier == one.frontier
        assert told.eager == one.eager
        served = [(s.budget, s.limit_bytes, s.row) for s in told.served(run.budgets)]
        assert served == [(b.budget, b.limit_bytes, b.row) for b in one.budgets]
        assert told.result is not None
        assert told.found is not None
        for plan in told.result.plans:
            assert max(plan.timeline_bytes) == plan.row.predicted_bytes
            for chosen in plan.chosen:
                assert chosen.without_bytes >= plan.row.predicted_bytes
        assert max(told.found.timeline_bytes) == told.found.unchunked_peak_bytes
        assert set(told.runs) == {plan_key(done.plan) for done in one.confirmed}
        assert all(done.expected is not None for done in told.runs.values())
    page = render(run)
    for one in result.lengths:
        for row in one.frontier:
            assert plan_key(row.plan) in page
    # the model file stands beside the ledger: so does its card in the page
    card = read_model(folder / "runs" / "model.json.gz").card
    assert card is not None and card_summary(card) in html.unescape(page)
    assert "regions, held-out lengths" in page


def test_progress_tells_how_runs_ended_and_the_best_plan_for_each_budget(tuned: Tuned) -> None:
    _, result, notes = tuned
    runs = [done for one in result.lengths for done in one.confirmed]
    assert Counter(notes.statuses) == Counter(done.status for done in runs)
    last = {(best.place, best.budget): best for best in notes.found}
    assert set(last) == {(f"length {n}", budget) for n in (96, 160) for budget in ("0.5", "min")}
    for best in last.values():
        assert 0 < best.peak_bytes <= best.eager_bytes


def test_apply_uses_the_database_and_gives_the_same_numbers(tuned: Tuned) -> None:
    folder, result, _ = tuned
    model, inputs = blocks()
    model.eval()
    args, _ = inputs(160)
    fast = apply(model, args, plans=folder / "plans", memory_budget=0.5)
    assert "tuned at 160" in fast.explain()
    row = result.lengths[1].budgets[0].row
    assert row is not None
    assert fast.plan == row.plan
    for length in (160, 96, 159, 33):
        args, _ = inputs(length)
        with torch.no_grad():
            torch.testing.assert_close(fast(*args), model(*args), rtol=1e-5, atol=1e-5)
    # without a budget the campaign's first one, which the file records, holds
    args, _ = inputs(160)
    assert apply(model, args, plans=folder / "plans").plan == row.plan


def test_a_second_campaign_adds_to_the_database(tuned: Tuned, tmp_path: Path) -> None:
    folder, _, _ = tuned
    values = campaign(tmp_path, seq_lens=[64], plans=str(folder / "plans"), budgets=[0.6])
    values["search"]["rounds"] = 1
    values["cost_model"]["timings_s"] = 0
    result = run_campaign(parse_config(values, tmp_path))
    assert result.scores == {}, "nothing was timed, so that nothing can be scored"
    (file,) = read_database(folder / "plans")
    (graph,) = file.graphs
    assert [entry.length for entry in graph.lengths] == [64, 96, 160]


def test_a_budget_that_no_plan_meets_stops_before_anything_is_measured(tmp_path: Path) -> None:
    values = campaign(tmp_path, budgets=[0.5, 0.01], seq_lens=[96])
    with pytest.raises(BudgetError, match=r"budget 0\.01 at length 96.*lowest known needs"):
        run_campaign(parse_config(values, tmp_path))
    kinds = {record["kind"] for record in read_ledger(tmp_path / "runs" / "ledger.jsonl")}
    assert kinds == {"campaign", "begin", "environment", "analysis"}
    assert not (tmp_path / "plans").exists()


def test_a_model_whose_output_varies_is_not_confirmed(tmp_path: Path) -> None:
    values = campaign(tmp_path, seq_lens=[64], budgets=["min"])
    values["model"]["factory"] = values["model"]["factory"].replace("blocks", "unsteady")
    with pytest.raises(MeasurementError, match="no plan could be confirmed"):
        run_campaign(parse_config(values, tmp_path))
    statuses = [r["status"] for r in read_ledger(tmp_path / "runs" / "ledger.jsonl")
                if r["kind"] == "plan"]  # fmt: skip
    assert statuses
    assert set(statuses) == {"wrong_output"}


def test_a_factory_that_fails_in_the_measuring_process_is_a_config_error(tmp_path: Path) -> None:
    values = campaign(tmp_path)
    values["model"]["kwargs"] = {"width": "many"}
    with pytest.raises(ConfigError, match=r"model\.factory"):
        run_campaign(parse_config(values, tmp_path))


def test_a_model_that_does_not_fit_unchunked_is_set_against_its_lowest_plan(tmp_path: Path) -> None:
    values = campaign(tmp_path, seq_lens=[96], budgets=[0.5, "min"])
    values["model"]["factory"] = values["model"]["factory"].replace("blocks", "too_large")
    (one,) = run_campaign(parse_config(values, tmp_path)).lengths
    assert one.reference == "lowest plan"
    assert one.frontier
    records = list(read_ledger(tmp_path / "runs" / "ledger.jsonl"))
    (baseline,) = [record for record in records if record["kind"] == "baseline"]
    assert baseline["status"] == "oom"
    confirmed = [r for r in records if r["kind"] == "plan" and r["status"] == "ok"]
    assert confirmed
    assert all(record["peak_bytes"] > 0 for record in confirmed), "each was really measured"


def test_an_output_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    values = campaign(tmp_path, output=str(tmp_path / "taken"))
    with pytest.raises(ConfigError, match=r"output: .* cannot be written"):
        run_campaign(parse_config(values, tmp_path))


def test_a_campaign_that_runs_elsewhere_keeps_its_configuration(tmp_path: Path) -> None:
    config = parse_config(campaign(tmp_path), tmp_path)
    config.output.mkdir(parents=True)
    with Ledger(config.output / "ledger.jsonl"):
        (config.output / "config.yaml").write_text("theirs", encoding="utf-8")
        with pytest.raises(LedgerError, match="another campaign"):
            run_campaign(config)
    assert (config.output / "config.yaml").read_text(encoding="utf-8") == "theirs"


def test_what_was_run_counts_after_the_limits_are_spent(tmp_path: Path) -> None:
    values = campaign(tmp_path, seq_lens=[96], limits={"runs": 3}, cost_model={"timings_s": 1})
    first = run_campaign(parse_config(values, tmp_path))
    ledger = tmp_path / "runs" / "ledger.jsonl"
    begun = sum(record["kind"] == "begin" for record in read_ledger(ledger))
    again = run_campaign(parse_config(values, tmp_path))
    assert sum(record["kind"] == "begin" for record in read_ledger(ledger)) == begun
    (before,), (after,) = first.lengths, again.lengths
    assert first.samples
    assert first.samples == again.samples  # the cost model learns from the same timings
    assert before.frontier == after.frontier
    assert [one.plan for one in before.confirmed] == [one.plan for one in after.confirmed]


def test_plans_that_are_refused_count_after_the_limits_are_spent_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Plan] = []

    def refusal(state: State, one: Length, plan: Plan) -> str:
        if plan.choices and not refused:
            refused.append(plan)
        return "needs too much" if plan in refused else ""

    monkeypatch.setattr("tuner.steps.confirm._refusal", refusal)
    values = campaign(tmp_path, seq_lens=[96], limits={"runs": 2}, cost_model={"timings_s": 0})
    ran = []
    for _ in range(2):
        (length,) = run_campaign(parse_config(values, tmp_path)).lengths
        ran.append([(one.plan, one.status) for one in length.confirmed])
    assert (refused[0], "oom_predicted") in ran[0]
    assert ran[0] == ran[1]


def test_finalists_known_well_stay_so_after_the_limits_are_spent(tmp_path: Path) -> None:
    values = campaign(tmp_path, seq_lens=[96], cost_model={"timings_s": 0.3})
    (before,) = run_campaign(parse_config(values, tmp_path)).lengths
    values["limits"] = {"runs": 1}
    (after,) = run_campaign(parse_config(values, tmp_path)).lengths
    assert before.frontier == after.frontier
    rows = read_ledger(tmp_path / "runs" / "ledger.jsonl")
    assert any(row.get("stage") == "final" and row["kind"] == "plan" for row in rows)


def test_a_finalist_that_is_cut_off_keeps_what_was_timed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, result = Measurer.together, finish_step._result
    ends: dict[Plan, str] = {}
    rows: list[PlanRow] = []

    def ending(
        self: Measurer, length: int, plans: Sequence[Confirmed], *more: Any, final: bool = False
    ) -> list[Confirmed]:
        found = together(self, length, plans, *more)
        if final:
            ends.update(zip((one.plan for one in found), ("timeout", "crash"), strict=False))
        return [replace(one, status=ends.get(one.plan, "ok")) for one in found]

    def kept(state: State, one: Length, given: list[PlanRow]) -> LengthResult:
        rows[:] = given
        return result(state, one, given)

    monkeypatch.setattr(Measurer, "together", ending)
    monkeypatch.setattr(finish_step, "_result", kept)
    values = campaign(tmp_path, seq_lens=[96], cost_model={"timings_s": 0}, budgets=[0.5, "min"])
    run_campaign(parse_config(values, tmp_path))
    assert sorted(ends.values()) == ["crash", "timeout"]
    found = {row.plan for row in rows}
    assert {end: plan in found for plan, end in ends.items()} == {"timeout": True, "crash": False}


@pytest.mark.parametrize("wrong", ["a file for a folder", "a damaged file", "no model to start"])
def test_what_cannot_be_written_or_read_is_said_before_much_is_measured(
    tmp_path: Path, wrong: str
) -> None:
    values = campaign(tmp_path, seq_lens=[96])
    place = tmp_path / "plans"
    if wrong == "a file for a folder":
        place.write_text("notes")
    elif wrong == "a damaged file":
        path = model_path(place, device_name("cpu"), "blocks")
        path.parent.mkdir(parents=True)
        path.write_text("schema: 3\nmodel: [")
    else:
        place = tmp_path / "none.json.gz"
        values["cost_model"]["start"] = str(place)
    with pytest.raises((DatabaseError, ModelFileError), match=str(place)):
        run_campaign(parse_config(values, tmp_path))
    kinds = {record["kind"] for record in read_ledger(tmp_path / "runs" / "ledger.jsonl")}
    assert kinds <= {"campaign", "begin", "environment"}


def test_other_inputs_are_other_measurements(tmp_path: Path) -> None:
    """Two batches give one graph: sizes are symbols there."""
    keys = []
    for batch in (3, 4):
        model = {"id": "m", "factory": f"{FACTORY}:of_batch", "kwargs": {"batch": batch}}
        config = parse_config(campaign(tmp_path, model=model, seq_lens=[48]), tmp_path)
        path = tmp_path / "ledger.jsonl"
        with Ledger(path) as ledger, Measurer(config, Journal(ledger)) as measurer:
            graph = measurer.describe(48).graph.fingerprint
            keys.append((graph, measurer.identities.of("baseline", 48)))
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]


def test_what_nothing_goes_on_without_is_tried_in_each_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(campaign(tmp_path, seq_lens=[48]), tmp_path)
    ledger = tmp_path / "ledger.jsonl"

    def statuses() -> list[str]:
        return [r["status"] for r in read_ledger(ledger) if r["kind"] == "baseline"]

    for session in range(2):
        with Ledger(ledger) as opened, Measurer(config, Journal(opened)) as measurer:
            measurer.describe(48)
            if not session:
                monkeypatch.setattr(measurer._pool, "request", _no_memory)
            assert {measurer.baseline(48).status for _ in range(2)} == {"ok" if session else "oom"}
    assert statuses() == ["oom", "ok"]


def _no_memory(*args: object) -> dict[str, Any]:
    return {"status": "oom", "reason": "others have it", "took_s": 0.0, "slot": ""}


def test_inputs_that_are_drawn_anew_are_compared_with_their_own(tmp_path: Path) -> None:
    model = {"id": "m", "factory": f"{FACTORY}:unseeded"}
    config = parse_config(campaign(tmp_path, model=model, seq_lens=[32, 48]), tmp_path)
    session = Session({"config": config.plain(), "folder": str(tmp_path), "target": ""})
    repeats = {"warmup": 0, "repeats": 1, "most": 1, "budget_s": 0.1}
    for length in (32, 48):
        session.handle({"job": "baseline", "length": length, "repeats": repeats})
    described = session.handle({"job": "describe", "length": 32})["described"]
    graph, _, _ = pickle.loads(base64.b64decode(described))
    plan = encode_plan(make_plan(graph))
    found = session.handle({"job": "peak", "length": 32, "plan": plan, "reference": None})
    assert found["status"] == "ok", found


def test_a_process_that_cannot_start_again_is_no_plans_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(campaign(tmp_path, seq_lens=[48]), tmp_path)
    with Ledger(tmp_path / "l.jsonl") as ledger, Measurer(config, Journal(ledger)) as measurer:
        graph = measurer.describe(48).graph
        monkeypatch.setattr(measurer._pool, "request", _unstarted)
        with pytest.raises(MeasurementError, match="could not be started again: oom"):
            measurer.check(48, make_plan(graph), None)
        assert not measurer.is_known(48, make_plan(graph), None)


def _unstarted(*args: object) -> dict[str, Any]:
    return {**_no_memory(), UNSTARTED: True}
