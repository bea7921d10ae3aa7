"""Turns on a device that several processes measure on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import pytest

from tests.tuner.campaigns import campaign
from tuner import worker
from tuner.measure.cpu import CpuBackend
from tuner.measure.protocol import Repeats
from tuner.measure.turns import QUIET_S, Turns

HOLD = """
import sys, time
from pathlib import Path
from tuner.measure.turns import Turns
with Turns("device", Path(sys.argv[1])).take(0) as came:
    print(came, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def turns(tmp_path: Path) -> Turns:
    return Turns("device", tmp_path)


def test_one_process_has_the_device_and_gives_it_back_when_it_dies(
    turns: Turns, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            started = time.monotonic()
            with turns.take(0.2) as came:
                assert not came
            assert time.monotonic() - started >= 0.2
        finally:
            holder.kill()
    with turns.take(10) as came:
        assert came


def test_turns_nest_and_end_with_the_outermost(turns: Turns, tmp_path: Path) -> None:
    other = Turns("device", tmp_path)
    with turns.take(0) as outer:
        with turns.take(0) as inner:
            assert outer
            assert inner
        with other.take(0) as came:
            assert not came
    with other.take(0) as came:
        assert came


def test_a_failure_within_gives_the_turn_back(turns: Turns, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="within"), turns.take(0):
        raise ValueError("within")
    with Turns("device", tmp_path).take(0) as came:
        assert came


def test_devices_do_not_wait_for_each_other(turns: Turns, tmp_path: Path) -> None:
    with turns.take(0), Turns("other", tmp_path).take(0) as came:
        assert came


def test_where_there_is_no_place_for_a_lock_nobody_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = Turns("device", tmp_path / "file" / "folder")
    with made.take(5) as came:
        assert came
    made.found_quiet()
    assert not made.is_quiet


def test_that_a_device_is_quiet_is_known_to_all_for_a_while(turns: Turns, tmp_path: Path) -> None:
    other = Turns("device", tmp_path)
    assert not other.is_quiet
    with turns.take(0):
        turns.found_quiet()
    assert other.is_quiet
    long_ago = time.time() - QUIET_S - 1
    os.utime(tmp_path / "device.quiet", (long_ago, long_ago))
    assert not other.is_quiet


class Shared(CpuBackend):
    """A device that another campaign keeps for itself."""

    waits: ClassVar[list[float]] = []

    def turn(self, most_s: float) -> AbstractContextManager[bool]:
        self.waits.append(most_s)
        return nullcontext(False)


@pytest.mark.parametrize("backend", [CpuBackend, Shared])
def test_what_is_measured_beside_another_campaign_says_so(
    backend: type[CpuBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "backend_for", lambda device: backend())
    confirm = {"warmup": 1, "repeats": 2, "wait_s": 0.25}
    values = campaign(tmp_path, confirm=confirm)
    session = worker.Session({"config": values, "folder": str(tmp_path), "target": ""})
    Shared.waits.clear()
    repeats = asdict(Repeats(1, 2, 2, budget_s=1.0))
    found = session.handle({"job": "baseline", "length": 96, "repeats": repeats})
    assert found["status"] == "ok"
    assert (found["contended"] == 1.0) == (backend is Shared)
    assert set(Shared.waits) == ({0.25} if backend is Shared else set())
