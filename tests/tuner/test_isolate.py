"""Measuring processes that answer, hang, die and refuse, and what is said of each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tuner.measure import isolate
from tuner.measure.confine import MARK
from tuner.measure.isolate import UNSTARTED, Isolated, end_leftovers
from tuner.measure.protocol import Status

ROOT = Path(__file__).resolve().parents[2]
TARGET = "faulty_session:Faulty"
SOON, LONG = 1.0, 60.0
PATHS = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}


class Started:
    """Makes isolated sessions that are closed when the test ends."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.made: list[Isolated] = []

    def __call__(
        self, spec: Mapping[str, Any] | None = None, target: str = TARGET, start_s: float = LONG
    ) -> Isolated:
        made = Isolated(
            target,
            spec or {},
            log=self.log,
            start_timeout_s=start_s,
            environment=PATHS,
        )
        self.made.append(made)
        return made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Started]:
    made = Started(tmp_path / "logs" / "session.log")
    yield made
    for isolated in made.made:
        isolated.close()


def is_running(process: int) -> bool:
    """Whether a process runs; one that has ended but whom nobody has waited for does not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state.split()[0] not in "ZX"


def ends(process: int) -> bool:
    """Whether a process is gone within ten seconds: a signal takes a moment to act."""
    deadline = time.monotonic() + 10
    while is_running(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_one_process_answers_request_after_request(start: Started) -> None:
    with start({"name": "a", "list": [1, None, 0.5]}) as isolated:
        assert isolated.starts == 0, "a process starts when it is first needed"
        first = isolated.request({"do": "answer", "echo": {"text": "line\nbreak é"}}, LONG)
        second = isolated.request({"do": "answer"}, LONG)
        assert first["status"] == second["status"] == "ok"
        assert first["spec"] == {"name": "a", "list": [1, None, 0.5]}
        assert first["echo"] == {"text": "line\nbreak é"}
        assert (first["count"], second["count"]) == (1, 2)
        assert first["pid"] == second["pid"] != os.getpid()
        assert isolated.starts == 1
        assert "fatal" not in first
    assert not is_running(first["pid"])


def test_long_requests_and_replies_arrive_whole(start: Started) -> None:
    text = "x" * 3_000_000
    assert start().request({"do": "answer", "echo": text}, LONG)["echo"] == text


# what a request does to its process -> the status, and a part of the reason
DEATHS = {
    "sleep": (Status.TIMEOUT, "no answer within 1 s"),
    "exit": (Status.CRASH, "exit status 3"),
    "leave": (Status.CRASH, "exit status 4"),
    "abort": (Status.CRASH, "SIGTERM"),
    "kill": (Status.PREEMPTED, "killed from outside"),
    "fail fatally": (Status.CRASH, "Fatal: illegal access"),
}


@pytest.mark.parametrize("do", DEATHS)
def test_after_a_death_the_next_request_has_a_new_process(start: Started, do: str) -> None:
    isolated = start()
    before = isolated.request({"do": "answer"}, LONG)
    status, reason = DEATHS[do]
    reply = isolated.request({"do": do}, SOON if do == "sleep" else LONG)
    assert reply["status"] == status.value
    assert reason in reply["reason"]
    assert not is_running(before["pid"])
    after = isolated.request({"do": "answer"}, LONG)
    assert after["status"] == "ok"
    assert after["count"] == 1
    assert after["pid"] != before["pid"]
    assert isolated.starts == 2


@pytest.mark.parametrize("counts", [(3, 4), (None, None)], ids=["counted", "nobody counts"])
def test_a_kill_by_the_kernel_is_an_out_of_memory(
    counts: tuple[int | None, int | None], start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the kernel's own count of such kills stands for one, which would take others with it
    told = iter(counts)
    monkeypatch.setattr(isolate, "memory_kills", lambda: next(told))
    reply = start().request({"do": "kill"}, LONG)
    assert reply["status"] == Status.OOM
    assert "memory" in reply["reason"]


def test_memory_beyond_the_cap_is_refused_to_the_process_alone(tmp_path: Path) -> None:
    def asked(cap: int) -> tuple[str, str]:
        with Isolated(
            TARGET, {}, log=tmp_path / "log", environment=PATHS, memory_bytes=cap
        ) as isolated:
            first = isolated.request({"do": "take", "bytes": 2**29}, LONG)
            assert isolated.request({"do": "answer"}, LONG)["count"] == 2, "it goes on"
            return first["status"], first.get("reason", "")

    assert asked(2**30) == ("ok", "")
    assert asked(2**28) == ("oom", "MemoryError: no message")


def test_a_process_keeps_to_its_cores(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with Isolated(
        TARGET, {}, log=tmp_path / "log", environment=PATHS, cores=[core]
    ) as isolated:
        assert isolated.request({"do": "answer"}, LONG)["cores"] == [core]


CAMPAIGN = """
import os, sys
from pathlib import Path
from tuner.measure.isolate import Isolated
isolated = Isolated(sys.argv[1], {}, log=Path(sys.argv[2]), environment={"A_MARK": sys.argv[3]})
print(isolated.request({"do": "start"}, 60)["pid"], flush=True)
isolated.request({"do": sys.argv[4]}, 600)
"""


@pytest.mark.parametrize("do", ["sleep", "spin without a break"])
def test_a_process_and_all_it_started_end_with_their_campaign(do: str, tmp_path: Path) -> None:
    campaign = subprocess.Popen(
        [sys.executable, "-c", CAMPAIGN, TARGET, str(tmp_path / "log"), str(tmp_path), do],
        stdout=subprocess.PIPE, env={**os.environ, **PATHS},
    )  # fmt: skip
    assert campaign.stdout is not None
    process = int(campaign.stdout.readline())
    assert is_running(process)
    text = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    started = [int(one) for one in text.split()]
    assert len(started) == 2, "the guard, and what the session started"
    time.sleep(0.1)
    campaign.kill()
    campaign.wait()
    campaign.stdout.close()
    assert all(ends(one) for one in [process, *started])


def test_what_left_its_group_is_found_by_its_mark_and_ended(tmp_path: Path) -> None:
    environment = {**PATHS, MARK: str(tmp_path)}
    with Isolated(TARGET, {}, log=tmp_path / "log", environment=environment) as isolated:
        gone = isolated.request({"do": "start apart"}, LONG)["started"]
    assert is_running(gone), "another session's group is not killed"
    assert end_leftovers(str(tmp_path / "another")) == 0
    assert end_leftovers(str(tmp_path)) == 1
    assert ends(gone)
    assert end_leftovers(str(tmp_path)) == 0


def test_a_request_that_is_killed_from_another_thread_comes_back(start: Started) -> None:
    isolated = start()
    isolated.request({"do": "answer"}, LONG)
    threading.Timer(0.2, isolated.kill).start()
    assert isolated.request({"do": "sleep"}, LONG)["status"] == Status.PREEMPTED


def test_a_crash_names_the_log(start: Started) -> None:
    assert str(start.log) in start().request({"do": "exit"}, LONG)["reason"]


def test_an_error_on_purpose_is_a_refusal_and_the_process_goes_on(start: Started) -> None:
    isolated = start()
    assert isolated.request({"do": "refuse"}, LONG) == {
        "status": "refused",
        "error": "ConfigError",
        "reason": "the key is wrong\nsecond line",
        "exit_code": 2,
    }
    other = isolated.request({"do": "refuse as over budget"}, LONG)
    assert (other["error"], other["exit_code"]) == ("BudgetError", 2)
    assert isolated.request({"do": "answer"}, LONG)["count"] == 3
    assert isolated.starts == 1


def test_another_error_is_classified_by_the_session_and_the_process_goes_on(
    start: Started,
) -> None:
    isolated = start()
    reply = isolated.request({"do": "fail"}, LONG)
    assert reply == {"status": "oom", "reason": "RuntimeError: first line"}
    assert isolated.request({"do": "fail silently"}, LONG) == {
        "status": "oom",
        "reason": "RuntimeError: no message",
    }
    assert isolated.request({"do": "answer"}, LONG)["count"] == 3
    assert isolated.starts == 1
    assert "second line" in start.log.read_text(encoding="utf-8"), "the log has the traceback"


def test_what_is_printed_goes_to_the_log_and_not_among_the_replies(start: Started) -> None:
    isolated = start()
    assert isolated.request({"do": "print"}, LONG)["status"] == "ok"
    assert isolated.request({"do": "answer"}, LONG)["count"] == 2
    isolated.close()
    # what Python still held back is lost when the process is killed, all else is there
    text = start.log.read_text(encoding="utf-8")
    assert "written below Python" in text
    assert "printed by a child" in text


@pytest.mark.parametrize(
    ("first", "status", "reason"),
    [
        ("exit", "crash", "exit status 3"),
        ("kill", "preempted", "killed from outside"),
        ("fail", "crash", "RuntimeError: first line"),
        ("refuse", "refused", "the key is wrong"),
        ("sleep", "timeout", "no answer within 1 s"),
    ],
)
def test_a_session_that_cannot_be_built_is_tried_anew_each_time(
    start: Started, first: str, status: str, reason: str
) -> None:
    isolated = start({"first": first}, start_s=SOON if first == "sleep" else LONG)
    for attempt in (1, 2):
        reply = isolated.request({"do": "answer"}, LONG)
        assert reply["status"] == status
        assert reason in reply["reason"]
        assert isolated.starts == attempt


def test_a_target_that_is_not_there_is_a_crash_with_its_reason(start: Started) -> None:
    reply = start(target="no_such_module_at_all:Session").request({"do": "answer"}, LONG)
    assert reply["status"] == "crash"
    assert "no_such_module_at_all" in reply["reason"]
    reply = start(target="faulty_session:Missing").request({"do": "answer"}, LONG)
    assert reply["status"] == "crash"
    assert "Missing" in reply["reason"]


def test_a_timeout_ends_what_the_process_had_started(start: Started, tmp_path: Path) -> None:
    isolated = start()
    isolated.request({"do": "answer"}, LONG)
    path = tmp_path / "pid"
    reply = isolated.request({"do": "start and sleep", "path": str(path)}, 2.0)
    assert reply["status"] == "timeout"
    assert ends(int(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("do", ["exit", "fail fatally", None])
def test_what_a_process_had_started_ends_with_it(start: Started, do: str | None) -> None:
    isolated = start()
    started = isolated.request({"do": "start"}, LONG)["started"]
    assert is_running(started)
    if do is None:
        isolated.close()
    else:
        isolated.request({"do": do}, LONG)
    assert ends(started)


def test_a_death_is_seen_although_a_copy_of_the_process_lives_on(start: Started) -> None:
    reply = start().request({"do": "fork and exit"}, 3.0)
    assert reply["status"] == "crash"
    assert "exit status 3" in reply["reason"]


def test_closing_twice_or_before_the_start_does_nothing(start: Started) -> None:
    isolated = start()
    isolated.close()
    process = isolated.request({"do": "answer"}, LONG)["pid"]
    isolated.close()
    isolated.close()
    assert not is_running(process)
    assert isolated.request({"do": "answer"}, LONG)["count"] == 1, "it may be used again"
    assert isolated.starts == 2


def test_an_error_in_the_block_ends_the_process_too(start: Started) -> None:
    seen: list[int] = []

    def fails(isolated: Isolated) -> None:
        with isolated:
            seen.append(isolated.request({"do": "answer"}, LONG)["pid"])
            raise KeyError("of its own")

    with pytest.raises(KeyError):
        fails(start())
    assert not is_running(seen[0])


def test_the_process_has_the_variables_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCHUNK_TEST_KEPT", "kept")
    environment = {**PATHS, "AUTOCHUNK_TEST_GIVEN": "given"}
    log = tmp_path / "log"
    with Isolated(TARGET, {}, log=log, environment=environment) as isolated:
        process = isolated.request({"do": "answer"}, LONG)["pid"]
        found = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    assert {b"AUTOCHUNK_TEST_KEPT=kept", b"AUTOCHUNK_TEST_GIVEN=given"} <= set(found)


def test_a_process_that_ran_before_is_started_again_after_a_while(
    start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the last one held may not have been given back yet; else it says so, and of nobody."""
    monkeypatch.setattr(isolate, "_PAUSES_S", (0.0, 0.0))
    session = start()
    assert session.request({"do": "answer"}, LONG)["status"] == "ok"
    good = dict(session.opening)
    session.close()
    session.opening = {**good, "target": "no_such_module:Session"}
    failed = session.request({"do": "answer"}, LONG)
    assert failed[UNSTARTED] and failed["status"] == "crash"
    assert session.starts == 1 + 3
    tried: list[float] = []

    def mended(seconds: float) -> None:
        tried.append(seconds)
        session.opening = good

    monkeypatch.setattr(time, "sleep", mended)
    assert session.request({"do": "answer"}, LONG)["status"] == "ok"
    assert tried == [0.0]
