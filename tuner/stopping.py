"""Ctrl-C and SIGTERM: a campaign stops within seconds, and what it has is kept.

A signal raises :class:`Stopped` wherever the main thread is, except inside :func:`shielded`, where
it waits: a record or a database file is written whole. Whoever catches it closes the measuring
processes and writes the best so far. A second signal ends the process at once, which the ledger
survives as it survives any kill.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The campaign was asked to stop.

    ``signal`` says how. It is no error: catch it to leave in good order, or let it pass.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = signal.Signals(number)


class _State:
    """Of the process's one main thread."""

    shields = 0
    asked: int | None = None


def _on_signal(number: int, frame: FrameType | None) -> None:
    for name in _SIGNALS:
        signal.signal(name, signal.SIG_DFL)  # the next one is not waited for
    if _State.shields:
        _State.asked = number
        return
    raise Stopped(number)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn signals into :class:`Stopped` inside; where they were handled before, outside. In a
    thread other than the main one, signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, _on_signal) for name in _SIGNALS}
    try:
        yield
    finally:
        _State.asked = None
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Let nothing interrupt what is inside; a signal that comes meanwhile is raised at the end.
    Keep it short."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals never reach other threads
        return
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
    if not _State.shields and _State.asked is not None:
        asked, _State.asked = _State.asked, None
        raise Stopped(asked)
