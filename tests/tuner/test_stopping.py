"""Signals: they stop what can be stopped, and wait for what must be whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tuner.stopping import Stopped, shielded, stoppable

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_wherever_the_main_thread_is(number: signal.Signals) -> None:
    def wait() -> None:
        with stoppable():
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            time.sleep(30)

    before = signal.getsignal(number)
    started = time.monotonic()
    with pytest.raises(Stopped, match=number.name) as caught:
        wait()
    assert time.monotonic() - started < 10
    assert caught.value.signal is number
    assert signal.getsignal(number) == before


def test_what_is_shielded_is_done_first() -> None:
    done: list[str] = []

    def work() -> None:
        with stoppable():
            with shielded():
                with shielded():
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(0.05)
                    done.append("inner")
                done.append("outer")
            done.append("never")

    with pytest.raises(Stopped):
        work()
    assert done == ["inner", "outer"]


def test_a_shield_without_a_signal_does_nothing() -> None:
    with stoppable():
        with shielded():
            pass
        with pytest.raises(KeyError), shielded():
            raise KeyError


def test_other_threads_shield_nothing_and_stop_nothing() -> None:
    seen: list[bool] = []

    def work() -> None:
        with stoppable(), shielded():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


TWICE = """
import os, signal, time
from tuner.stopping import Stopped, stoppable
with stoppable():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    except Stopped:
        print("stopping", flush=True)
        time.sleep(30)
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TWICE], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"stopping\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT
    process.stdout.close()
