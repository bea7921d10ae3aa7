"""What an engine gives: slots, each of which measures one thing at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Reply = dict[str, Any]


class Slot(Protocol):
    """One device and the isolated process that measures on it; see
    :class:`tuner.measure.isolate.Isolated`, which is one."""

    name: str

    def request(self, request: Mapping[str, Any], timeout_s: float) -> Reply:
        """The session's reply, with at least ``status``, and ``reason`` where that is not ``ok``.
        ``preempted`` says that the measurement may be tried again, here or elsewhere."""

    def kill(self) -> None:
        """End what runs there at once, from any thread."""

    def close(self) -> None:
        """End the slot and all that it started."""
