"""Sweeps: several campaigns of one file, what they share, and in which order they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from search_space.errors import ConfigError, MeasurementError
from tests.tuner.campaigns import campaign
from tuner.config import load_config, parse_config
from tuner.progress import Silent
from tuner.sweep import load_sweep, run_sweep

MODEL = {"id": "Small", "factory": "a.b:c", "kwargs": {"layers": 2, "width": 32}}
FILE: dict[str, Any] = {
    "campaign": "night",
    "model": MODEL,
    "seq_lens": [128],
    "search": {"n_trials": 50, "rounds": 3},
    "limits": {"wall_s": "8h"},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "night.yaml"
    path.write_text(yaml.safe_dump({**FILE, **changes}), encoding="utf-8")
    return path


def test_a_file_without_a_sweep_is_one_campaign(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load_sweep(path) == (load_config(path),)


def test_entries_change_keys_and_sections_key_by_key(tmp_path: Path) -> None:
    large = {"model": {"id": "large"}, "seq_lens": [256, 512], "search": {"rounds": 1}}
    first, second = load_sweep(write(tmp_path, sweep=[{}, large]), ["search.seed=7"])
    assert (first.model.id, second.model.id) == ("Small", "large")
    assert first.model.kwargs == second.model.kwargs == MODEL["kwargs"]
    assert (first.search.rounds, second.search.rounds) == (3, 1)
    assert first.search.n_trials == second.search.n_trials == 50
    assert first.search.seed == second.search.seed == 7
    assert first.plans == second.plans
    assert (first.output, second.output) == (Path("runs/night/small"), Path("runs/night/large"))


def test_short_lengths_come_first(tmp_path: Path) -> None:
    sweep = [{"seq_lens": lengths} for lengths in ([512], [64, 256], [64, 128], [32, 1024])]
    found = load_sweep(write(tmp_path, sweep=sweep))
    assert [one.seq_lens for one in found] == [(32, 1024), (64, 128), (64, 256), (512,)]
    # one model several times: every entry has a ledger of its own
    assert len({one.output for one in found}) == 4


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ([], "sweep must be a list"),
        ({"seq_lens": [1]}, "sweep must be a list"),
        ([[1]], r"sweep\[0\] must be a mapping"),
        ([{}, {"sweep": []}], r"sweep\[1\] must be a mapping"),
        ([{"limits": {"runs": 1}}], r"sweep\[0\] must be a mapping of keys to change, without"),
        ([{}, {"seq_lens": 3}], r"sweep\[1\]: seq_lens must be a list"),
        ([{"serch": {}}], r"sweep\[0\]: unknown key serch; did you mean search"),
    ],
)
def test_a_wrong_entry_is_named(sweep: Any, says: str, tmp_path: Path) -> None:
    path = write(tmp_path, sweep=sweep)
    with pytest.raises(ConfigError, match=says) as caught:
        load_sweep(path)
    assert str(path) in str(caught.value)


def test_what_takes_one_campaign_refuses_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="several campaigns"):
        load_config(write(tmp_path, sweep=[{}]))


def test_overrides_hold_for_all_campaigns(tmp_path: Path) -> None:
    path = write(tmp_path, sweep=[{"seq_lens": [256]}, {"search": {"rounds": 1}}])
    for one in load_sweep(path, ["seq_lens=[16]", "search.rounds=7"]):
        assert (one.seq_lens, one.search.rounds) == ((16,), 7)
    (only,) = load_sweep(path, ["sweep=[{seq_lens: [32]}]", "search.rounds=7"])
    assert (only.seq_lens, only.search.rounds) == ((32,), 7)


def test_every_campaign_has_a_folder_of_its_own(tmp_path: Path) -> None:
    names = ["a", "a", "a-0", "a-1", "A"]
    path = write(tmp_path, sweep=[{"model": {"id": name}} for name in names])
    assert len({one.output for one in load_sweep(path)}) == len(names)


def test_limits_that_leave_a_campaign_nothing_are_no_mistake(tmp_path: Path) -> None:
    values = campaign(tmp_path, seq_lens=[32], limits={"runs": 1})
    configs = [parse_config({**values, "output": str(tmp_path / name)}, tmp_path) for name in "ab"]
    first, second = run_sweep(configs, Silent())
    assert isinstance(first.error, MeasurementError), "half a run is none"
    assert "Where limits ended it, raise them" in str(first.error)
    assert second.result is not None and len(second.result.lengths[0].confirmed) == 1
