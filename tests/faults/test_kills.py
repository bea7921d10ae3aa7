"""The fault campaign: real campaigns of a small model, killed at random instants.

Coordinators, measuring processes, or both are killed with SIGKILL, and now and then the ledger is
left with a torn last line, as after a power cut. Whatever was on disk must stay there, be counted
once, and never be measured again; plans must be readable at every instant.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.preloaded import Preloaded
from tests.faults.watch import Tally, Watch, left_over
from tests.tuner.campaigns import campaign, write
from tuner.database import read_database

KILLS = int(os.environ.get("AUTOCHUNK_FAULT_KILLS", "52"))
LANES = 2
"""Campaigns that run side by side: one a core of a small machine."""

LENGTHS = (48, 80)

TORN = (b'{"kind":"plan","at":"2026', b'{"kind":"check","key":"0"}', b"\x00" * 4096, b"{", b"\xff")


@dataclass
class Count:
    """What a lane did and found."""

    kills: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    torn: int = 0
    lost: int = 0
    leftovers: int = 0
    campaigns: int = 0
    tally: Tally = field(default_factory=Tally)

    def add(self, other: Count) -> None:
        self.kills.update(other.kills)
        self.under_way += other.under_way
        self.torn += other.torn
        self.lost += other.lost
        self.leftovers += other.leftovers
        self.campaigns += other.campaigns
        self.tally = self.tally + other.tally

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in sorted(self.kills.items()))
        return (
            f"fault campaign: {self.kills.total()} kills ({kinds}; {self.under_way} while a "
            f"measurement was under way; coordinators forked from a loaded interpreter, measuring "
            f"processes started as always), {self.torn} torn lines, {self.campaigns} campaigns "
            f"finished; {self.tally.measurements} measurements, lost {self.lost}, doubled "
            f"{self.tally.doubled}, measured again {self.tally.again}, processes left over "
            f"{self.leftovers}"
        )


def small_campaign(folder: Path) -> Path:
    """A campaign of some 40 measurements that take about ten seconds in all. (A line is fitted in a
    tenth of the time that boosting takes, and every restart fits anew.)"""
    values = campaign(folder, seq_lens=list(LENGTHS))
    values["model"]["kwargs"] = {"layers": 1, "width": 16, "heads": 2}
    values["search"] = {"n_trials": 20, "rounds": 2}
    values["cost_model"] = {"kind": "linear", "timings_s": 0.5}
    values["confirm"].update(top_k=2, repeats=15)
    return write(folder, values)


class Lane:
    """One campaign after the other, killed again and again.

    Args:
        seed: of the instants and kinds of kills.
        more: whether another kill is wanted; asked before each.
    """

    def __init__(self, folder: Path, seed: int, more: Callable[[], bool]) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._more = more
        self.count = Count()

    def run(self) -> Count:
        self._folder.mkdir()
        with Preloaded(self._folder / "coordinator.log") as preloaded:
            while self._more():
                place = self._folder / f"campaign-{self.count.campaigns}"
                place.mkdir()
                self._campaign(preloaded, place)
                self.count.campaigns += 1
        return self.count

    def _campaign(self, preloaded: Preloaded, folder: Path) -> None:
        """Kill a campaign until no more kills are wanted or it ends; then let it end."""
        path = small_campaign(folder)
        watch = Watch(folder / "runs" / "ledger.jsonl")
        code = -1
        while code != 0:
            process = preloaded.start("tune", str(path))
            while self._more() and self._wait(process, watch):
                kind = self._random.choice(["the coordinator", "the measuring process", "both"])
                if not self._kill(process, kind):
                    continue
                self.count.kills[kind] += 1
                self.count.under_way += bool(watch.under_way())
                if kind != "the measuring process":
                    break
            code = preloaded.wait()
            assert code in (0, -signal.SIGKILL), self._log()
            watch.look()
            self._check_plans(folder, watch)
            if code and self._random.random() < 0.4:
                with watch.path.open("ab") as file:
                    file.write(self._random.choice(TORN))
                self.count.torn += 1
        self._check_end(preloaded, path, watch)
        self.count.lost += watch.lost
        self.count.tally += watch.tally()
        self.count.leftovers += left_over(folder / "runs")

    def _kill(self, coordinator: int, kind: str) -> bool:
        """Whether what was to be killed was there to be killed."""
        measuring = children(coordinator)
        if kind == "the measuring process" and not measuring:
            return False
        # in either order: the other one may notice
        killed = [*measuring[:1], coordinator]
        if kind == "both":
            self._random.shuffle(killed)
        elif kind == "the coordinator":
            killed = [coordinator]
        else:
            killed = measuring[:1]
        for process in killed:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                return False
        return True

    def _wait(self, process: int, watch: Watch) -> bool:
        """Wait for a random instant: some time from now, or from when some more lines stand in the
        ledger. Whether the process is still there then."""
        lines = self._random.randrange(6)
        wanted = watch.whole().count(b"\n") + lines
        while watch.whole().count(b"\n") < wanted and state(process) not in "ZX":
            time.sleep(0.01)
        deadline = time.monotonic() + self._random.uniform(0.0, 1.0 if lines else 8.0)
        while time.monotonic() < deadline and state(process) not in "ZX":
            time.sleep(0.01)
        return state(process) not in "ZX"

    def _check_plans(self, folder: Path, watch: Watch) -> None:
        """At every instant all plans can be read, and each was measured."""
        if not (folder / "plans").exists():
            return
        peaks = {r["peak_bytes"] for r in watch.records() if r["kind"] == "plan" and "samples" in r}
        for file in read_database(folder / "plans"):
            for graph in file.graphs:
                for entry in graph.lengths:
                    assert {row.peak_bytes for row in entry.frontier} <= peaks

    def _check_end(self, preloaded: Preloaded, path: Path, watch: Watch) -> None:
        """A campaign that has ended is complete, and going on with it measures nothing."""
        (file,) = read_database(path.parent / "plans")
        (graph,) = file.graphs
        assert [(e.length, e.incomplete) for e in graph.lengths] == [
            (length, False) for length in LENGTHS
        ]
        plans, before = file.path.read_bytes(), watch.tally()
        preloaded.start("tune", str(path))
        assert preloaded.wait() == 0, self._log()
        watch.look()
        assert watch.tally() == before
        assert file.path.read_bytes() == plans

    def _log(self) -> str:
        log = self._folder / "coordinator.log"
        return log.read_text(encoding="utf-8")[-3000:] if log.exists() else "no log"


def children(process: int) -> list[int]:
    """The processes that a process started and that are still there."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(one) for one in text.split()]


def state(process: int) -> str:
    """A process's state as the kernel names it; X where it is gone."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return text.rpartition(")")[2].split()[0]


@pytest.mark.faults
@pytest.mark.timeout(2400)
def test_nothing_is_lost_or_doubled_however_campaigns_are_killed(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    def more() -> bool:
        return sum(lane.count.kills.total() for lane in lanes) < KILLS

    lanes: list[Lane] = []
    lanes += [Lane(tmp_path / f"lane-{seed}", seed, more) for seed in range(LANES)]
    with ThreadPoolExecutor(LANES) as threads:
        counts: list[Any] = list(threads.map(Lane.run, lanes))
    total = Count()
    for count in counts:
        total.add(count)
    tell(str(total))
    assert total.kills.total() >= KILLS
    assert total.lost == total.tally.doubled == total.tally.again == total.leftovers == 0
    assert total.tally.measurements >= 20 * total.campaigns
    if KILLS >= 50:
        assert min(total.kills.values()) >= 5 and len(total.kills) == 3
        assert total.under_way >= 5, "some kills must hit a measurement"
