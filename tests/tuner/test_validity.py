"""Verdicts on entries, and what look-up makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.test_database import graph_entry
from tuner.database import GraphEntry, ModelFile
from tuner.measure.cpu import CpuBackend
from tuner.runtime.lookup import Plans
from tuner.validity import Verdict, doubts, judge

HERE = {
    "device": "cuda", "device_name": "H", "torch": "2.13.0+cu130", "cuda": "13.0", "tf32": "False",
    "python": "3.12.1", "wait_policy": "default",
}  # fmt: skip


def file(name: str = "H", path: str = "a.yaml", **changes: str) -> ModelFile:
    entry = replace(graph_entry(), environment={**HERE, "dtype": "float32", **changes})
    return ModelFile("m", name, (entry,), Path(path))


@pytest.mark.parametrize(
    ("device", "changes", "verdict", "reason"),
    [
        ("H", {}, Verdict.FRESH, ""),
        ("H", {"python": "3.11.0"}, Verdict.FRESH, ""),
        ("H", {"torch": "2.13.0"}, Verdict.FRESH, ""),
        ("H", {"torch": "2.13.1"}, Verdict.COMPATIBLE, "torch '2.13.1'"),
        ("A", {}, Verdict.COMPATIBLE, "device_name 'A', here 'H'"),
        ("H", {"cuda": "12.8"}, Verdict.COMPATIBLE, "cuda"),
        ("H", {"tf32": "True"}, Verdict.COMPATIBLE, "tf32"),
        ("H", {"wait_policy": "PASSIVE"}, Verdict.COMPATIBLE, "wait_policy 'PASSIVE'"),
        ("H", {"torch": "2.12.0"}, Verdict.STALE, "torch '2.12.0', here '2.13.0+cu130'"),
        ("H", {"torch": "3.13.0"}, Verdict.STALE, "torch"),
        ("H", {"device": "cpu"}, Verdict.INVALID, "device 'cpu', here 'cuda'"),
        ("A", {"device": "cpu", "torch": "2.1"}, Verdict.INVALID, "device_name"),
    ],
)
def test_a_verdict_is_the_worst_of_all_differences(
    device: str, changes: dict[str, str], verdict: Verdict, reason: str
) -> None:
    one = file(device, **changes)
    found = judge(one, one.graphs[0], HERE)
    assert found.verdict is verdict
    assert found.verdict.usable == (verdict <= Verdict.COMPATIBLE)
    assert reason in str(found)
    assert str(found).startswith(verdict.name.lower())


def test_what_an_entry_does_not_say_is_not_held_against_it() -> None:
    bare = ModelFile("m", "H", (replace(graph_entry(), environment={}),))
    assert judge(bare, bare.graphs[0], HERE).verdict is Verdict.FRESH


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "autochunk")
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_best_verdict_goes_first(lines: Callable[[], list[str]]) -> None:
    stale, other, own = file(torch="2.1", path="0"), file("A", path="1"), file(path="2")
    plans = Plans((stale, other, own), HERE)
    assert plans.entry("0f3a") is own.graphs[0]
    assert lines() == []
    assert Plans((stale, other), HERE).entry("0f3a") is other.graphs[0]
    assert len(lines()) == 1 and "device_name 'A'" in lines()[0]


def test_plans_are_judged_for_the_device_that_a_model_is_on_now() -> None:
    """A model may be moved after its plans were read."""
    found = CpuBackend().environment()
    here = file(**{name: found[name] for name in ("device", "torch", "cuda") if name in found})
    plans = Plans((here,), HERE, "cuda:0")
    assert plans.entry("0f3a") is None
    assert plans.on("cuda:0") is plans
    moved = plans.on("cpu")
    assert moved is plans.on("cpu")
    judged = moved.judged("0f3a")
    assert judged is not None and judged.judgement.verdict is Verdict.COMPATIBLE
    assert moved.entry("0f3a") is here.graphs[0]


def test_a_stale_entry_is_a_miss_and_one_log_line(lines: Callable[[], list[str]]) -> None:
    plans = Plans((file(torch="2.1"),), HERE)
    assert plans.entry("0f3a") is None
    assert plans.entry("0f3a") is None
    (line,) = lines()
    assert "stale: torch '2.1'" in line and "plans verify" in line
    judged = plans.judged("0f3a")
    assert judged is not None and judged.judgement.verdict is Verdict.STALE
    assert plans.entry("beef", "target 'x'") is None
    assert "nothing for target 'x'" in lines()[1]


def test_lengths_tuned_elsewhere_are_judged_by_their_own_environment(
    lines: Callable[[], list[str]],
) -> None:
    old = {**HERE, "torch": "2.1"}
    fresh, stale = (graph_entry(lengths=(n,)).lengths[0] for n in (64, 128))
    entry = replace(
        graph_entry(), environment=HERE, lengths=(fresh, replace(stale, environment=old))
    )
    assert [part.lengths for part in entry.parts()] == [(fresh,), (stale,)]
    assert entry.with_lengths(entry.parts()) == entry
    plans = Plans((ModelFile("m", "H", (entry,), Path("a.yaml")),), HERE)
    found = plans.entry("0f3a")
    assert found is not None and found.lengths == (fresh,)
    (line,) = lines()
    assert "torch '2.1'" in line
    judged = plans.judged("0f3a")
    assert judged is not None and judged.entry is entry
    # the other way round: what was written last does not make the rest usable, or unusable
    turned = replace(
        entry, environment=old, lengths=(replace(fresh, environment=HERE), stale)
    )
    usable = Plans((ModelFile("m", "H", (turned,), Path("a.yaml")),), HERE).entry("0f3a")
    assert usable is not None and [one.length for one in usable.lengths] == [64]


def test_entries_that_cannot_be_true_are_doubted() -> None:
    entry = graph_entry(lengths=(64,))
    assert doubts(entry) == []

    def changed(**changes: Any) -> GraphEntry:
        (length,) = entry.lengths
        rows = (replace(length.frontier[0], **changes), *length.frontier[1:])
        return replace(entry, lengths=(replace(length, frontier=rows),))

    for changes, text in (
        ({"peak_bytes": 0}, "a peak must be positive"),
        ({"latency_ms": float("nan")}, "latency_ms is nan"),
        ({"ratio": 5.0}, "not within its interval"),
        ({"plan": entry.lengths[0].frontier[1].plan}, "one plan stands in two rows"),
    ):
        (found,) = doubts(changed(**changes))
        assert text in found and "graph 0f3a, length 64" in found
