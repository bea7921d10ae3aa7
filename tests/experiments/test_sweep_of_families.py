"""The sweep over families: what its records say, and one family in a process of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep import main, read_records, write
from experiments.sweep_page import faults, page, shortfalls, verdict
from experiments.zoo import FAMILIES

RUN: dict[str, Any] = {
    "length": 48, "error": 1e-7, "wrong": "", "predicted_bytes": 5000, "measured_bytes": 5000,
}  # fmt: skip
REPLY: dict[str, Any] = {
    "status": "ok", "floor_bytes": None, "analysis_s": 1.0, "runs_s": 0.1, "loops": 2,
    "explain": ["graph", "peak", "1. loop"], "runs": [RUN, {**RUN, "length": 61}],
}  # fmt: skip
RECORD: dict[str, Any] = {
    "name": "made", "eager": {"status": "ok", "peak_bytes": 10_000},
    "budgets": {"0.5": REPLY, "min": copy.deepcopy(REPLY)}, "seconds": 3.0,
}  # fmt: skip


def changed(run: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """The record with values of its second budget, or of that one's second run, changed."""
    record = copy.deepcopy(RECORD)
    record["budgets"]["min"].update(values)
    if run is not None:
        record["budgets"]["min"]["runs"][1].update(run)
    return record


def test_a_good_record_has_no_fault_and_falls_short_of_nothing() -> None:
    assert faults(RECORD) == [] and shortfalls(RECORD) == []
    assert verdict(RECORD) == "0.5: 0.50x, 2 loops; min: 0.50x, 2 loops"


@pytest.mark.parametrize(
    ("record", "words", "grave"),
    [
        (changed({"wrong": "differs by 1"}), "min, length 61: WRONG: differs by 1", True),
        (changed(status="crash", reason="signal", runs=[]), "min: crash: signal", True),
        (
            {**RECORD, "eager": {"status": "crash", "reason": "no"}, "budgets": {}},
            "eager: crash: no",
            True,
        ),
        (changed({"predicted_bytes": 4700}), "min, length 61: peak predicted -6.0% off", False),
        (changed(status="timeout", reason="late", runs=[]), "min: no result in time", False),
        (changed(loops=0, explain=["g", "p", "nothing is chunked"]), "no reason given", False),
        (
            {**RECORD, "eager": {"status": "ok", "peak_bytes": 10_000, "told_bytes": 9000}},
            "eager peak told -10.0% off",
            False,
        ),
        (
            {**RECORD, "eager": {"status": "ok", "peak_bytes": 9000, "told_bytes": None}},
            "0.5: takes 0.556 of the eager model's peak",
            False,
        ),
    ],
)
def test_every_fault_and_shortfall_is_named(
    record: dict[str, Any], words: str, grave: bool
) -> None:
    assert words in verdict(record)
    assert bool(faults(record)) == grave
    assert words.split(": ")[-1] in page([record])


def test_reasons_and_refusals_are_on_the_page() -> None:
    why = "nothing is chunked: no loop lowers the peak"
    unchunked = changed(loops=0, explain=["graph", "peak", why])
    assert shortfalls(unchunked) == []
    refused = {**RECORD, "budgets": {"0.5": {"status": "refused", "reason": "cannot | be"}}}
    text = page([RECORD, unchunked, {**refused, "name": "other"}])
    assert why in text and "cannot \\| be" in text
    assert "**3 families: 2 chunked, 1 refused.** Not tried: roberta, " in text


def test_a_family_is_tried_in_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "page.md"
    write(target, [{**RECORD, "name": "mamba"}])
    assert main(["whisper", "--save", str(target), "--log", str(tmp_path / "log")]) == 0
    assert "whisper (" in capsys.readouterr().out
    records = read_records(target)
    assert list(records) == ["mamba", "whisper"], "the other's record was not kept"
    record = records["whisper"]
    assert set(record["budgets"]) == {"0.5", "min"}
    for reply in record["budgets"].values():
        (run,) = reply["runs"]
        assert run["predicted_bytes"] == run["measured_bytes"] <= record["eager"]["peak_bytes"]
    assert "| whisper |" in target.read_text(encoding="utf-8")


def test_a_family_is_tried_with_attention_run_fused(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    options = ["--fused", "--save", str(target), "--log", str(tmp_path / "log")]
    assert main(["gpt_neox", *options]) == 0
    record = read_records(target)["gpt_neox"]
    for reply in record["budgets"].values():
        for run in reply["runs"]:
            assert run["predicted_bytes"] == run["measured_bytes"]
    assert record["budgets"]["min"]["runs"][0]["measured_bytes"] < record["eager"]["peak_bytes"]


def test_an_unknown_family_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["wisper"])
    told = capsys.readouterr().err
    assert "no family wisper" in told and all(name in told for name in FAMILIES)
