"""SIGTERM and Ctrl-C: a campaign stops within five seconds, wherever it is, and goes on later."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.preloaded import Preloaded
from tests.faults.test_kills import small_campaign, state
from tests.faults.watch import Watch, left_over
from tuner.database import read_database

SOON_S = 5.0


def until(process: int, there: Callable[[], bool]) -> None:
    """Wait until something is there, while a process lives."""
    deadline = time.monotonic() + 400
    while not there():
        assert state(process) not in "ZX" and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_signal_stops_a_campaign_soon_and_keeps_the_best_so_far(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    path = small_campaign(tmp_path)
    watch = Watch(tmp_path / "runs" / "ledger.jsonl")

    def kinds() -> set[str]:
        return {record["kind"] for record in watch.records()}

    # while the measuring process starts, while the model is captured, amid measurements, and once
    # plans are confirmed
    instants: list[tuple[signal.Signals, Callable[[], bool]]] = [
        (signal.SIGINT, lambda: "campaign" in kinds()),
        (signal.SIGTERM, lambda: "environment" in kinds()),
        (signal.SIGINT, lambda: watch.under_way() > 0 and "region" in kinds()),
        (signal.SIGTERM, lambda: (tmp_path / "plans").exists()),
    ]
    took_s: list[float] = []
    with Preloaded(tmp_path / "log") as preloaded:
        for number, there in instants:
            process = preloaded.start("tune", str(path))
            until(process, there)
            started = time.monotonic()
            os.kill(process, number)
            assert preloaded.wait() == 128 + number
            took_s.append(time.monotonic() - started)
            assert took_s[-1] < SOON_S
            assert left_over(tmp_path / "runs") == 0
            *_, last = watch.records()
            assert (last["kind"], last["reason"]) == ("stopped", f"stopped by {number.name}")
            watch.look()
        (file,) = read_database(tmp_path / "plans")
        (entry, *_) = file.graphs[0].lengths
        assert entry.incomplete and entry.frontier
        preloaded.start("tune", str(path))
        assert preloaded.wait() == 0
    tell(f"signals: {len(took_s)} campaigns stopped, the slowest in {max(took_s):.1f} s")
    watch.look()
    assert watch.lost == watch.tally().doubled == watch.tally().again == 0
    (file,) = read_database(tmp_path / "plans")
    assert not any(entry.incomplete for entry in file.graphs[0].lengths)
    assert "the same command goes on" in (tmp_path / "log").read_text(encoding="utf-8").lower()

