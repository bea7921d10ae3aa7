"""Turns on a device that several processes measure on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cost_models.ceilings import Ceilings
from tests.tuner.campaigns import campaign
from tuner import measurer, worker
from tuner.config import parse_config
from tuner.journal import Journal
from tuner.ledger import Ledger
from tuner.measure.cpu import CpuBackend
from tuner.measure.protocol import TURN, Repeats
from tuner.measure.turns import QUIET_S, Turns

HOLD = """
import sys, time
from pathlib import Path
from tuner.measure.turns import Turns
print("asking", flush=True)
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
            assert [holder.stdout.readline() for _ in range(2)] == ["asking\n", "True\n"]
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


def test_who_waits_gets_the_turn_from_one_who_asks_again_at_once(
    turns: Turns, tmp_path: Path
) -> None:
    with turns.take(0):
        command = [sys.executable, "-c", HOLD.replace("take(0)", "take(60)"), str(tmp_path)]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "asking\n"
        time.sleep(0.5)
    try:
        with turns.take(1) as came:
            assert not came
        assert waiting.stdout.readline() == "True\n"
    finally:
        waiting.kill()
        waiting.communicate()


def test_devices_do_not_wait_for_each_other(turns: Turns, tmp_path: Path) -> None:
    with turns.take(0), Turns("other", tmp_path).take(0) as came:
        assert came


def test_where_there_is_no_place_for_a_lock_nobody_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    made = Turns("device", tmp_path / "file" / "folder")
    for _ in range(3):
        with made.take(5) as came:
            assert came
    made.found_quiet()
    assert not made.is_quiet
    (told,) = caplog.messages
    assert "cannot take turns here" in told
    assert "TMPDIR names another folder" in told


def test_that_a_device_is_quiet_is_known_to_all_for_a_while(turns: Turns, tmp_path: Path) -> None:
    other = Turns("device", tmp_path)
    assert not other.is_quiet
    with turns.take(0):
        turns.found_quiet()
    assert other.is_quiet
    long_ago = time.time() - QUIET_S - 1
    os.utime(tmp_path / "device.quiet", (long_ago, long_ago))
    assert not other.is_quiet


def test_who_has_no_turn_makes_the_others_look_again(turns: Turns, tmp_path: Path) -> None:
    other = Turns("device", tmp_path)
    with turns.take(0):
        turns.found_quiet()
        with other.take(0) as came:
            assert not came
        assert not turns.is_quiet


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "turns"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    made = Turns("device", folder)
    with made.take(0) as came:
        assert came
        made.found_quiet()
    assert list(folder.iterdir()) == []


class Shared(CpuBackend):
    """A device that another campaign keeps for itself, or leaves in time."""

    def __init__(self, *comes: bool) -> None:
        super().__init__()
        self.comes = list(comes)
        self.waits: list[float] = []
        self.held = 0

    @contextlib.contextmanager
    def turn(self, most_s: float) -> Iterator[bool]:
        self.waits.append(most_s)
        came = self.comes.pop(0)
        self.held += came
        yield came
        self.held -= came


def session_on(
    backend: CpuBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    monkeypatch.setattr(worker, "backend_for", lambda device: backend)
    values = campaign(tmp_path, confirm={"warmup": 1, "repeats": 2, "wait_s": 0})
    return worker.Session({"config": values, "folder": str(tmp_path), "target": ""}).handle


BASELINE = {"job": "baseline", "length": 96, "repeats": asdict(Repeats(1, 2, 2, budget_s=1.0))}
TAKING_TURNS = {**BASELINE, TURN: True}


def test_what_is_measured_beside_another_campaign_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Shared(False, False, True)
    handle = session_on(backend, tmp_path, monkeypatch)
    assert handle(BASELINE)["contended"] < 1
    assert handle({"job": TURN, "most_s": 7.0}) == {"status": "ok", "came": False}
    assert handle(TAKING_TURNS)["contended"] == 1
    assert handle(BASELINE)["contended"] < 1  # (asked for without a turn)
    # a process that was started anew had none
    assert handle(TAKING_TURNS)["contended"] == 1
    # a wait in vain is not repeated at once
    handle({"job": TURN, "most_s": 7.0})
    handle({"job": TURN, "most_s": 7.0})
    assert backend.waits == [7.0, 0.0, 0.0]
    assert handle(TAKING_TURNS)["contended"] < 1


def test_a_turn_ends_with_the_job_however_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Shared(True, True, True)
    handle = session_on(backend, tmp_path, monkeypatch)
    for request in (BASELINE, {"job": "region"}):
        assert handle({"job": TURN, "most_s": 7.0})["came"]
        assert backend.held == 1
        with contextlib.suppress(KeyError):
            handle(request)
        assert backend.held == 0
    # one that no job followed gives way to the next
    handle({"job": TURN, "most_s": 7.0})
    backend.comes.append(True)
    handle({"job": TURN, "most_s": 7.0})
    assert backend.held == 1


class Answering:
    """A slot that knows its device."""

    name = "answering"

    def __init__(self) -> None:
        self.jobs: list[object] = []

    def request(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        self.jobs.append(request["job"])
        ceilings = asdict(Ceilings(1.0, 1.0, 1, 1.0, 1.0, 1.0))
        return {"status": "ok", "environment": {"device_name": "a device"}, "ceilings": ceilings}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("device", "jobs"),
    [("cpu", ["environment", "ceilings"]), ("cuda:0", ["environment", TURN, "ceilings"])],
)
def test_a_gpu_is_asked_for_a_turn_before_it_is_measured(
    device: str, jobs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = Answering()
    monkeypatch.setattr(measurer, "make_slots", lambda config, target: [slot])
    config = parse_config(campaign(tmp_path, device=device), tmp_path)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        measurer.Measurer(config, Journal(ledger)).environment()
    assert slot.jobs == jobs
