"""Profiles of a campaign with ``compile``: passes are timed compiled too, and learned from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from cost_models.ceilings import CEILINGS_VERSION
from cost_models.plans import PlanCost
from cost_models.roofline import FEWEST, Roofline
from cost_models.stored import joined
from search_space.plan import encode_regions
from tests.tuner.campaigns import campaign
from tuner.campaign import run_campaign
from tuner.config import parse_config
from tuner.journal import Journal
from tuner.ledger import Ledger, read_ledger
from tuner.measure.protocol import Repeats
from tuner.measurer import Measurer
from tuner.model_files import make_model
from tuner.profile import Profiled, run_profile
from tuner.runtime.analysis import Analysis
from tuner.steps import confirm as confirm_step
from tuner.worker import Session

Profile = tuple[Path, Profiled]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("profile")
    values = campaign(folder, seq_lens=[96], compile=True)
    return folder, run_profile(parse_config(values, folder), 300.0, most_classes=8)


def test_passes_are_timed_compiled_beside_the_region_as_it_is(profiled: Profile) -> None:
    _, found = profiled
    compiled = [one for one in found.samples if one.features.compiled]
    plain = [one for one in found.samples if not one.features.compiled]
    assert len(compiled) >= FEWEST and plain and not found.failed
    assert {one.group for one in compiled} <= {one.group for one in plain}
    sizes = {(one.group, one.features.chunk_size) for one in plain}
    assert all((one.group, one.features.chunk_size) in sizes for one in compiled)
    assert all(one.whole_ms > 0 and one.again is not None for one in compiled)


def test_the_ledger_says_which(profiled: Profile) -> None:
    folder, found = profiled
    rows = [row for row in read_ledger(folder / "runs" / "ledger.jsonl") if row["kind"] == "region"]
    named = [name for row in rows for name in row["samples"]]
    signed = [name for name in named if name.endswith("*")]
    assert len(signed) == sum(one.features.compiled for one in found.samples)


def test_a_second_profile_measures_nothing_again(profiled: Profile) -> None:
    folder, found = profiled
    ledger = folder / "runs" / "ledger.jsonl"
    before = sum(row["kind"] == "region" for row in read_ledger(ledger))
    values = campaign(folder, seq_lens=[96], compile=True)
    again = run_profile(parse_config(values, folder), 300.0, most_classes=8)
    assert len(again.samples) == len(found.samples)
    assert sum(row["kind"] == "region" for row in read_ledger(ledger)) == before


def test_when_more_is_measured_of_devices_they_are_measured_anew(
    profiled: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of one run must not be told by two kinds of ceilings."""
    folder, _ = profiled

    def measured() -> int:
        rows = read_ledger(folder / "runs" / "ledger.jsonl")
        return sum(row["kind"] == "environment" and row.get("status") == "ok" for row in rows)

    before = measured()
    config = parse_config(campaign(folder, seq_lens=[96], compile=True), folder)
    for version, times in ((CEILINGS_VERSION, 0), (-1, 1)):
        monkeypatch.setattr("tuner.identities.CEILINGS_VERSION", version)
        with (
            Ledger(config.output / "ledger.jsonl") as ledger,
            Measurer(config, Journal(ledger)) as one,
        ):
            one.environment()
        assert measured() == before + times


def test_a_campaign_that_starts_from_it_predicts_compiled_passes(
    profiled: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = profiled
    path = folder / "model.json.gz"
    make_model(
        path, joined(found.samples, ()), found.baselines, found.device, found.ceilings, "linear"
    )
    made: list[PlanCost] = []

    def kept(*arguments: object, **named: object) -> PlanCost:
        made.append(PlanCost(*arguments, **named))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(confirm_step, "PlanCost", kept)
    for start in (None, str(path)):
        place = tmp_path / f"from-{start is not None}"
        place.mkdir()
        cost_model = {"kind": "linear", "timings_s": 0.3, **({"start": start} if start else {})}
        values = campaign(
            place, seq_lens=[96], budgets=[0.5], cost_model=cost_model, compile=True
        )
        run_campaign(parse_config(values, place))
    (alone, started) = made
    assert alone.compiled_model == Roofline()
    # with so few samples it is the roofline, or the model, but its spread is no longer assumed
    assert started.compiled_model != Roofline()


def test_bodies_that_may_not_be_compiled_are_not_timed_so(tmp_path: Path) -> None:
    values = campaign(tmp_path, seq_lens=[96], compile={"bodies": False})
    found = run_profile(parse_config(values, tmp_path), 1.0, most_classes=1)
    assert found.samples and not any(one.features.compiled for one in found.samples)


def test_a_compiler_that_fails_is_no_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what ran uncompiled would be taken for compiled."""
    def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("no compiler here")

    config = parse_config(campaign(tmp_path, seq_lens=[96], compile=True), tmp_path)
    session = Session({"config": config.plain(), "folder": str(tmp_path), "target": ""})
    located, _ = session._located(96)
    analysis = Analysis.unmeasured(located.captured.graph, located.bindings)
    item = analysis.space.classes[0]
    request = {
        "job": "region", "length": 96, "regions": encode_regions(item.regions[:1]),
        "chunk_sizes": [], "compiled_sizes": [item.extent // 2],
        "repeats": asdict(Repeats(repeats=1, most=1)),
    }  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr("torch._inductor.standalone_compile", broken)
        reply = session.handle(request)
    assert reply["status"] == "crash"
    assert "nothing is compiled: RuntimeError: no compiler here" in reply["reason"]
    # the next class is tried again
    reply = session.handle(request)
    assert reply["status"] == "ok"
    assert set(reply["samples"]) == {"whole", f"{item.extent // 2}*"}
