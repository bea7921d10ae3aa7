"""The journal: what was measured is known again, whatever ended the campaign."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from search_space.errors import LedgerError
from tuner.config import LimitsConfig
from tuner.journal import MOST_DEATHS, Journal, Spent, identity, spent_in
from tuner.ledger import Ledger, read_ledger
from tuner.limits import Clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def measured(journal: Journal, key: str, **row: Any) -> None:
    journal.begin([key], {"what": "check", "stage": "check"})
    journal.commit([("check", {"key": key, "status": "ok", **row})])


def test_an_identity_depends_on_what_is_measured_and_not_on_order() -> None:
    one = identity("check", length=8, plan={"a": 1, "b": [1, 2]})
    assert one == identity("check", plan={"b": [1, 2], "a": 1}, length=8)
    others = {
        identity("timed", length=8, plan={"a": 1, "b": [1, 2]}),
        identity("check", length=9, plan={"a": 1, "b": [1, 2]}),
        identity("check", length=8, plan={"a": 1, "b": [2, 1]}),
        identity("check", length=8, plan={"a": 1}),
    }
    assert len({one, *others}) == 5


def test_what_was_measured_is_known_in_the_next_session(path: Path) -> None:
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        assert journal.recovered == 0
        assert journal.known("a") is None
        measured(journal, "a", peak=3)
        assert journal.known("a") == list(read_ledger(path))[1]
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        assert journal.recovered == 1
        found = journal.known("a")
        assert found is not None and found["peak"] == 3
        assert journal.known("b") is None


def test_all_results_but_preempted_ones_count(path: Path) -> None:
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        for status in ("ok", "oom", "crash", "wrong_output", "preempted"):
            journal.commit([("plan", {"key": status, "status": status})])
        known = [journal.known(s) is not None for s in ("ok", "oom", "crash", "wrong_output")]
        assert all(known)
        assert journal.known("preempted") is None


def test_a_time_out_is_tried_again_only_where_more_is_allowed(path: Path) -> None:
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        journal.commit([("plan", {"key": "slow", "status": "timeout", "timeout_s": 10.0})])
        assert journal.known("slow", 5.0) is not None
        assert journal.known("slow", 10.0) is not None
        assert journal.known("slow", 10.5) is None


def test_a_session_that_dies_counts_against_what_it_was_measuring(path: Path) -> None:
    for death in range(MOST_DEATHS):
        with Ledger(path) as ledger:
            journal = Journal(ledger)
            assert journal.deaths("heavy") == death
            journal.note("campaign", {})
            measured(journal, f"light {death}")
            journal.begin(["heavy", "beside"], {"what": "timed"})
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        assert journal.deaths("heavy") == journal.deaths("beside") == MOST_DEATHS
        assert journal.deaths("light 0") == 0


def test_a_session_that_was_stopped_blames_nothing(path: Path) -> None:
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        journal.begin(["long"], {"what": "timed"})
        journal.note("stopped", {"reason": "SIGTERM"})
    with Ledger(path) as ledger:
        assert Journal(ledger).deaths("long") == 0


def test_what_is_spent_is_summed_over_sessions(path: Path) -> None:
    assert spent_in(path) == Spent()
    rows = [
        {"kind": "campaign", "at": "2026-01-01T00:00:00.000+00:00"},
        {"kind": "check", "at": "2026-01-01T00:00:10.000+00:00", "key": "a", "took_s": 4.0,
         "stage": "check", "status": "ok"},
        {"kind": "campaign", "at": "2026-01-02T00:00:00.000+00:00"},
        {"kind": "plan", "at": "2026-01-02T00:00:03.000+00:00", "key": "b", "took_s": 1.5,
         "stage": "timed", "status": "ok"},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert spent_in(path) == Spent(13.0, 5.5, 1)
    with Ledger(path) as ledger:
        assert Journal(ledger).spent() == Spent(13.0, 5.5, 1)


def test_a_fresh_start_keeps_the_old_ledger(path: Path) -> None:
    for n in range(3):
        with Ledger(path, fresh=True) as ledger:
            assert Journal(ledger).recovered == 0
            measured(Journal(ledger), f"key {n}")
    kept = sorted(path.parent.glob("ledger*.jsonl"))
    assert len(kept) == 3
    found = {record["key"] for one in kept for record in read_ledger(one) if "key" in record}
    assert found == {"key 0", "key 1", "key 2"}
    # what stands aside may be damaged: a fresh start is a way out of that too
    path.write_bytes(b"damaged\n")
    with pytest.raises(LedgerError):
        Ledger(path)
    with Ledger(path, fresh=True) as ledger:
        assert Journal(ledger).recovered == 0


def test_a_full_disk_is_one_error_and_leaves_the_ledger_whole(path: Path) -> None:
    resource = pytest.importorskip("resource")
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        measured(journal, "a")
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # a file that may not grow any more refuses writes in the middle, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
        try:
            with pytest.raises(LedgerError, match=r"cannot be written.*run again"):
                measured(journal, "b")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.read_bytes() == before
        assert journal.known("b") is None
        measured(journal, "b")
        assert journal.known("b") is not None


def test_limits_end_a_campaign_over_all_its_sessions(path: Path) -> None:
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        limits = LimitsConfig(device_s=10.0, runs=3)
        measured(journal, "a", took_s=6.0, stage="check")
        assert Clock(limits, journal).allowance().exceeded() == ""
        half = Clock(limits, journal).allowance(2)  # 2 s and one run of what is left
        measured(journal, "b", took_s=1.0, stage="check")
        assert half.exceeded() == "2 plans were run"
        assert Clock(limits, journal).allowance().exceeded() == ""
        measured(journal, "c", took_s=3.5, stage="timed")
        assert "devices' time" in Clock(limits, journal).allowance().exceeded()
    with Ledger(path) as ledger:
        assert "devices' time" in Clock(limits, Journal(ledger)).allowance().exceeded()


def test_a_part_of_the_limits_is_divided_further(path: Path) -> None:
    with Ledger(path) as ledger:
        journal = Journal(ledger)
        measured(journal, "a", took_s=2.0, stage="check")
        clock = Clock(LimitsConfig(device_s=14.0, runs=9, wall_s=1000.0), journal)
        first = clock.part(2)  # 6 s and 4 runs of what is left
        assert first.wall_left_s == pytest.approx(500, abs=5)
        assert first.allowance(2).until.device_s == 5.0
        assert (first.allowance().until.device_s, first.allowance().until.runs) == (8.0, 5.0)
        measured(journal, "b", took_s=6.5, stage="check")
        assert "devices' time" in first.allowance().exceeded()
        assert clock.allowance().exceeded() == ""
        assert clock.part(1).allowance().until.device_s == 14.0
        assert Clock(LimitsConfig(), journal).part(3).wall_left_s is None


def test_time_passes_without_records_too(path: Path) -> None:
    with Ledger(path) as ledger:
        clock = Clock(LimitsConfig(wall_s=0.05), Journal(ledger))
        assert clock.allowance().exceeded() == ""
        assert clock.wall_left_s is not None
        assert 0 < clock.wall_left_s <= 0.05
        time.sleep(0.06)
        assert "campaign's time" in clock.allowance().exceeded()
        assert clock.wall_left_s == 0
        assert Clock(LimitsConfig(), Journal(ledger)).wall_left_s is None
        assert Clock(LimitsConfig(), Journal(ledger)).allowance().exceeded() == ""


def test_of_results_the_last_one_counts(path: Path) -> None:
    """A campaign may find, lose and find again the same result."""
    good, empty = ({"target": "", "length": 8, "frontier": found} for found in ([1], []))
    for row in (good, empty, good, good):
        with Ledger(path) as ledger:
            Journal(ledger).keep("result", row)
            Journal(ledger).keep("prediction", row)
    kinds = [(record["kind"], record["frontier"]) for record in read_ledger(path)]
    assert [found for kind, found in kinds if kind == "result"] == [[1], [], [1]]
    assert [found for kind, found in kinds if kind == "prediction"] == [[1], []]


def test_a_profile_is_a_session_of_its_own_and_time_never_runs_back(path: Path) -> None:
    times = [
        ("campaign", "2024-01-01T00:00:00"), ("finished", "2024-01-01T00:10:00"),
        ("profile", "2024-01-04T00:00:00"), ("region", "2024-01-04T00:01:00"),
        ("campaign", "2024-01-05T05:00:00"), ("region", "2024-01-05T04:00:00"),
    ]  # fmt: skip
    lines = [json.dumps({"kind": kind, "at": f"{at}+00:00"}) for kind, at in times]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert spent_in(path).wall_s == 660
