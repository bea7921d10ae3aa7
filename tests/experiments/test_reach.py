"""The measured table: what a record says, what a page says of it, and a real measurement."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import reach_session
from experiments.reach import main, write_page
from experiments.reach_page import misses, page
from experiments.reach_session import Session
from experiments.subjects import BARS, Bar, gpt2

RUN: dict[str, Any] = {
    "status": "ok", "peak_bytes": 20, "predicted_bytes": 20, "error": 1e-7, "wrong": "",
    "ratio": 0.9, "ratio_low": 0.8, "ratio_high": 1.0, "pairs": 12,
}  # fmt: skip
RECORD: dict[str, Any] = {
    "key": "gpt2", "name": "GPT-2", "length": 2048,
    "bars": {"eager_mb": 442.0, "share": 0.2, "time_ratio": 1.0, "min_share": 0.1},
    "eager": {"status": "ok", "peak_bytes": 100, "predicted_bytes": 100},
    "runs": {"budget": RUN, "min": {**RUN, "peak_bytes": 10, "predicted_bytes": 10, "ratio": 1.4}},
    "environment": {"torch": "2.13"}, "command": "python -m experiments.reach",
}  # fmt: skip


def changed(run: str, **values: Any) -> dict[str, Any]:
    """The record with one run's values changed; a new run is like the budget's otherwise."""
    record = copy.deepcopy(RECORD)
    record["runs"][run] = {**record["runs"].get(run, RUN), **values}
    return record


def test_a_record_that_meets_every_bar_misses_nothing() -> None:
    assert misses(RECORD) == []


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (changed("budget", peak_bytes=21, predicted_bytes=21), "peak 0.2100x, bar 0.2x"),
        (changed("budget", ratio=1.001, ratio_low=1.0005), "time 1.001x"),
        (changed("budget", ratio=1.001, ratio_low=0.9), "within the interval"),
        (changed("min", peak_bytes=11, predicted_bytes=11), "min: peak 0.1100x"),
        (changed("budget", predicted_bytes=19), "predicted peak off by -5.0%"),
        (changed("min", error=2e-5), "min: outputs differ by 2e-05"),
        (changed("min", wrong="another shape"), "another shape"),
        (changed("budget", status="refused", reason="no", lowest_bytes=30), "plan 0.300x"),
        (changed("min", status="oom", reason="killed"), "min: oom"),
        ({**RECORD, "eager": {"status": "crash", "reason": "signal"}}, "eager: crash: signal"),
        ({**RECORD, "runs": {"budget": RUN}}, "min: not measured"),
    ],
)
def test_every_shortfall_is_named(record: dict[str, Any], words: str) -> None:
    assert words in "; ".join(misses(record))


def test_a_tuned_plan_counts_only_where_it_meets_all_bars_itself() -> None:
    slow = changed("budget", ratio=1.2, ratio_low=1.1)
    slow["runs"]["tuned"] = RUN
    assert misses(slow) == []
    slow["runs"]["tuned"] = {**RUN, "peak_bytes": 25, "predicted_bytes": 25}
    assert "time 1.200x" in "; ".join(misses(slow)), "one plan's peak and another's time"
    slow["runs"]["tuned"] = {**RUN, "error": 1.0, "wrong": "differs"}
    assert "tuned: outputs differ" in "; ".join(misses(slow))


def test_the_page_names_every_subject_measured_or_not(tmp_path: Path) -> None:
    text = page({"gpt2": RECORD, "vit": {**changed("budget", ratio=2.0), "name": "ViT"}}, {})
    assert "| GPT-2 | budget 0.2 |" in text
    assert "- GPT-2: met" in text
    assert "- ViT: **missed**" in text
    for row in BARS:
        if row.key not in ("gpt2", "vit"):
            assert f"| {row.name} | not measured |" in text
    folder = tmp_path / "reach"
    folder.mkdir()
    (folder / "gpt2.json").write_text(json.dumps(RECORD))
    assert "- GPT-2: met" in write_page(tmp_path).read_text()
    assert main(["--page", "--results", str(tmp_path)]) == 0
    with pytest.raises(SystemExit):
        main(["--subjects", "gpt7"])


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session on a small GPT-2."""
    def make() -> Any:
        return gpt2(layers=1, width=64, heads=4, positions=512, vocabulary=101)

    row = Bar("small", "small GPT-2", make, 256, 4.0, 0.5, 5.0)
    monkeypatch.setattr(reach_session, "BARS", (row,))
    return Session({"key": "small", "threads": torch.get_num_threads(), "memory_bytes": None})


def test_a_subject_is_measured_eager_within_a_budget_and_at_its_least(session: Session) -> None:
    eager = session.handle({"do": "eager"})
    assert eager["peak_bytes"] == pytest.approx(eager["predicted_bytes"], rel=0.03)
    common = {"do": "budget", "pairs": 2, "seconds": 10.0}
    half = session.handle({**common, "budget": 0.5})
    least = session.handle({**common, "budget": "min"})
    for reply in (half, least):
        assert reply["status"] == "ok"
        assert not reply["wrong"]
        assert reply["error"] <= 1e-5
        assert reply["predicted_bytes"] == pytest.approx(reply["peak_bytes"], rel=0.03)
        assert 0 < reply["ratio_low"] <= reply["ratio"] <= reply["ratio_high"]
        json.dumps(reply)
    assert least["peak_bytes"] <= half["peak_bytes"] <= 0.5 * eager["peak_bytes"] * 1.03
    refused = session.handle({**common, "budget": 0.001})
    assert refused["status"] == "refused"
    assert refused["lowest_bytes"] > 0.001 * eager["peak_bytes"]
