"""A few slots, and calls that wait for a free one.

The calls are those of threads, one a slot at most; the work is done in the slots' own processes. A
death there ends one measurement and never the pool.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from tuner.engine.protocol import Reply, Slot
from tuner.measure.protocol import TURN, Status

T = TypeVar("T")

_TURN_GRACE_S = 600.0
"""Beside the wait for a turn: its process may have to start first."""

MOST_TRIES = 6
"""How often a measurement is started whose process is killed from outside each time."""


class Closed(Exception):
    """The pool was closed while a measurement was under way; it has no result."""


class Pool:
    """Hands requests to free slots.

    Args:
        slots: at least one.

    Attributes:
        waited_s: seconds that slots have waited for their turns.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = list(slots)
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()  # the last one used has most at hand
        for slot in reversed(self._slots):
            self._free.put(slot)
        self._closed = False
        self._counting = threading.Lock()
        self.waited_s = 0.0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """How many measurements can run at once."""
        return len(self._slots)

    def request(
        self, request: Mapping[str, Any], timeout_s: float, turn_s: float = 0.0
    ) -> Reply:
        """The reply of the first free slot, with ``took_s``, the seconds it was busy, and ``slot``,
        its name. What is killed from outside is tried again.

        Args:
            turn_s: how long at most the slot first waits for its turn on its device (see
                :mod:`tuner.measure.turns`), beside ``timeout_s`` and ``took_s``; 0 to take none.

        Raises:
            Closed: the pool was closed meanwhile.
        """
        return self._asked(lambda: self._on_a_free_slot(request, timeout_s, turn_s))

    def each(self, request: Mapping[str, Any], timeout_s: float) -> list[Reply]:
        """The replies of all slots to one request.

        Raises:
            Closed: the pool was closed meanwhile.
        """
        taken = [self._free.get() for _ in self._slots]
        try:
            asks = [partial(_on, slot, request, timeout_s) for slot in taken]
            return self.map([partial(self._asked, ask) for ask in asks])
        finally:
            for slot in taken:
                self._free.put(slot)

    def _on_a_free_slot(
        self, request: Mapping[str, Any], timeout_s: float, turn_s: float
    ) -> Reply:
        slot = self._free.get()
        try:
            if self._closed:
                raise Closed
            if not turn_s:
                return _on(slot, request, timeout_s)
            failure = self._wait(slot, turn_s)
            if self._closed:
                raise Closed
            return failure or _on(slot, {**request, TURN: True}, timeout_s)
        finally:
            self._free.put(slot)

    def _wait(self, slot: Slot, turn_s: float) -> Reply | None:
        """Let a slot take its turn, or wait for it in vain; the reply where that fails."""
        reply = _on(slot, {"job": TURN, "most_s": turn_s}, turn_s + _TURN_GRACE_S)
        with self._counting:
            self.waited_s += reply["took_s"]
        return None if reply["status"] == Status.OK else reply

    def _asked(self, ask: Callable[[], Reply]) -> Reply:
        """A reply, asked for again while the process is killed from outside."""
        for _ in range(MOST_TRIES):
            reply = ask()
            if self._closed:
                raise Closed
            if reply["status"] != Status.PREEMPTED:
                break
        return reply

    def map(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of several calls in order, as many at once as there are slots. A call should
        make one request at a time."""
        if self.size == 1 or len(calls) < 2:
            return [call() for call in calls]
        with ThreadPoolExecutor(self.size) as threads:
            futures = [threads.submit(call) for call in calls]
            try:
                return [future.result() for future in futures]
            except BaseException:
                # waiting for what still runs could take as long as a time-out
                self._closed = True
                threads.shutdown(wait=False, cancel_futures=True)
                while not all(future.done() for future in futures):
                    self._kill()
                    time.sleep(0.02)
                raise

    def close(self) -> None:
        """End all slots; may be called again. Requests that are under way raise."""
        self._closed = True
        self._kill()
        for slot in self._slots:
            slot.close()

    def _kill(self) -> None:
        for slot in self._slots:
            slot.kill()


def _on(slot: Slot, request: Mapping[str, Any], timeout_s: float) -> Reply:
    started = time.monotonic()
    reply = slot.request(request, timeout_s)
    return {**reply, "took_s": round(time.monotonic() - started, 3), "slot": slot.name}
