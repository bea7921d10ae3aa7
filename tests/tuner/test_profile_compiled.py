"""Profiles of a campaign with ``compile``: passes are timed compiled too, and learned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cost_models.plans import PlanCost
from cost_models.roofline import Roofline
from cost_models.stored import joined
from tests.tuner.campaigns import campaign
from tuner.campaign import run_campaign
from tuner.config import parse_config
from tuner.ledger import read_ledger
from tuner.model_files import make_model
from tuner.profile import Profiled, run_profile
from tuner.steps import confirm as confirm_step

Profile = tuple[Path, Profiled]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("profile")
    values = campaign(folder, seq_lens=[96], compile=True)
    return folder, run_profile(parse_config(values, folder), 20.0, most_classes=4)


def test_passes_are_timed_compiled_beside_the_region_as_it_is(profiled: Profile) -> None:
    _, found = profiled
    compiled = [one for one in found.samples if one.features.compiled]
    plain = [one for one in found.samples if not one.features.compiled]
    assert compiled and plain and not found.failed
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
    again = run_profile(parse_config(values, folder), 20.0, most_classes=4)
    assert len(again.samples) == len(found.samples)
    assert sum(row["kind"] == "region" for row in read_ledger(ledger)) == before


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
        values = campaign(place, seq_lens=[96], budgets=[0.5], cost_model=cost_model)
        run_campaign(parse_config(values, place))
    (alone, started) = made
    assert alone.compiled_model == Roofline()
    assert started.compiled_model is started.model
