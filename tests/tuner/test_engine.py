"""The pool of slots: what it hands out, retries, runs at once and ends. Slots are processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search_space.errors import ConfigError
from tests.tuner.campaigns import campaign
from tuner.config import parse_config
from tuner.engine.local import local_slots
from tuner.engine.pool import MOST_TRIES, Closed, Pool
from tuner.engine.slots import engine_device
from tuner.measure.isolate import Isolated
from tuner.measure.protocol import TURN

ROOT = Path(__file__).resolve().parents[2]
PATHS = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}
LONG = 60.0


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[list[Isolated]]:
    made = [
        Isolated(
            "faulty_session:Faulty", {}, log=tmp_path / "log", environment=PATHS, name=f"slot {k}"
        )
        for k in range(2)
    ]
    yield made
    for one in made:
        one.close()


def ask(pool: Pool, do: str, **more: Any) -> dict[str, Any]:
    return pool.request({"do": do, **more}, LONG)


def test_a_reply_says_where_and_how_long(slots: list[Isolated]) -> None:
    with Pool(slots) as pool:
        reply = ask(pool, "answer", echo=1)
        assert (reply["status"], reply["echo"], reply["slot"]) == ("ok", 1, "slot 0")
        assert 0 < reply["took_s"] < LONG
        # the slot that was used last has most at hand
        assert [ask(pool, "answer")["count"] for _ in range(3)] == [2, 3, 4]


def test_several_run_at_once_and_come_back_in_order(slots: list[Isolated]) -> None:
    with Pool(slots) as pool:
        calls = [partial(ask, pool, "nap", seconds=s, echo=s) for s in (0.4, 0.1, 0.3, 0.0)]
        ask(pool, "answer")  # (one slot is started already, the other one is not)
        replies = pool.map(calls)
        assert [reply["echo"] for reply in replies] == [0.4, 0.1, 0.3, 0.0]
        assert {reply["slot"] for reply in replies} == {"slot 0", "slot 1"}
        assert len({reply["pid"] for reply in replies}) == 2


def test_a_death_costs_one_measurement_and_not_the_pool(slots: list[Isolated]) -> None:
    with Pool(slots) as pool:
        calls = [partial(ask, pool, do) for do in ("answer", "exit", "answer", "fail", "answer")]
        replies = pool.map(calls)
        assert [r["status"] for r in replies] == ["ok", "crash", "ok", "oom", "ok"]


def test_what_is_killed_from_outside_is_tried_again(slots: list[Isolated], tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    with Pool(slots) as pool:
        reply = ask(pool, "kill at first", path=str(tries), times=3)
        assert reply["status"] == "ok"
        assert len(tries.read_bytes()) == 4
        tries.unlink()
        reply = ask(pool, "kill at first", path=str(tries), times=100)
        assert reply["status"] == "preempted"
        assert len(tries.read_bytes()) == MOST_TRIES


class Waiting:
    """A slot whose device comes free after a while."""

    name = "waiting"

    def __init__(self, *turns: str) -> None:
        self.asked: list[tuple[Any, float]] = []
        self.flags: list[bool] = []
        self.turns = list(turns)
        self.meanwhile: Callable[[], None] = lambda: None

    def request(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        self.asked.append((request["job"], timeout_s))
        self.flags.append(TURN in request)
        if request["job"] != TURN:
            return {"status": "ok"}
        time.sleep(0.3)
        self.meanwhile()
        return {"status": self.turns.pop(0) if self.turns else "ok"}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_waiting_for_a_turn_is_nobodys_measuring_time() -> None:
    slot = Waiting()
    with Pool([slot]) as pool:
        assert pool.request({"job": "measure"}, 5.0)["took_s"] < 0.1
        assert pool.waited_s == 0
        assert pool.request({"job": "measure"}, 5.0, 60.0)["took_s"] < 0.1
        assert 0.3 <= pool.waited_s < 1
    assert slot.asked[0] == ("measure", 5.0)
    (turn, patience), again = slot.asked[1:]
    assert turn == TURN
    assert patience >= 60
    assert again == ("measure", 5.0)
    assert slot.flags == [False, False, True]


def test_a_turn_that_is_lost_is_taken_again() -> None:
    slot = Waiting("preempted", "ok")
    with Pool([slot]) as pool:
        assert pool.request({"job": "measure"}, 5.0, 60.0)["status"] == "ok"
    assert [job for job, _ in slot.asked] == [TURN, TURN, "measure"]
    slot = Waiting("crash")
    with Pool([slot]) as pool:
        assert pool.request({"job": "measure"}, 5.0, 60.0)["status"] == "crash"
    assert [job for job, _ in slot.asked] == [TURN]


def test_nothing_is_measured_in_a_pool_that_was_closed_during_the_wait() -> None:
    slot = Waiting()
    pool = Pool([slot])
    slot.meanwhile = pool.close
    with pytest.raises(Closed):
        pool.request({"job": "measure"}, 5.0, 60.0)
    assert [job for job, _ in slot.asked] == [TURN]


def test_all_slots_can_be_asked(slots: list[Isolated]) -> None:
    with Pool(slots) as pool:
        assert len({reply["pid"] for reply in pool.each({"do": "answer"}, LONG)}) == 2


def test_an_error_ends_what_still_runs(slots: list[Isolated]) -> None:
    def fails() -> dict[str, Any]:
        time.sleep(0.3)
        raise KeyError("of its own")

    with Pool(slots) as pool:
        pool.each({"do": "answer"}, LONG)
        started = time.monotonic()
        with pytest.raises(KeyError):
            pool.map([fails, lambda: ask(pool, "sleep"), lambda: ask(pool, "sleep")])
        assert time.monotonic() - started < 5
        with pytest.raises(Closed):
            ask(pool, "answer")


def test_cpu_slots_have_cores_of_their_own(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    values = campaign(tmp_path, engine={"slots": 2, "host_memory_bytes": "2GiB"})
    if len(cores) < 2:
        with pytest.raises(ConfigError, match=r"engine\.slots: 2 slots need as many cores"):
            local_slots(parse_config(values, tmp_path), "")
        return
    found = local_slots(parse_config(values, tmp_path), "")
    openings = [slot.opening for slot in found]
    assert [one["cores"] for one in openings] == [cores[0::2], cores[1::2]]
    assert {one["memory_bytes"] for one in openings} == {2**30}
    too_many = campaign(tmp_path, engine={"slots": len(cores) + 1})
    with pytest.raises(ConfigError, match=r"engine\.slots"):
        local_slots(parse_config(too_many, tmp_path), "")


def test_without_ray_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    values = campaign(tmp_path, engine={"kind": "ray"}, device="auto")
    with pytest.raises(ConfigError, match=r"pip install 'autochunk\[cluster\]'"):
        engine_device(parse_config(values, tmp_path))
