"""Measuring processes of different campaigns take turns on a device.

Two campaigns on one GPU would otherwise be timed against each other. Each takes the device for one
batch of measurements at a time; what else they do goes on meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

QUIET_S = 30.0
"""For so long a device that nobody else had is taken for quiet."""


class Turns:
    """The turns on one device, among all of one user's processes on this machine.

    Args:
        name: the device's own, the same in all processes.
        folder: where the lock lies; None for one of the user's in the system's temporary folder.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"autochunk-{_user()}"
        self._folder = folder
        self._lock = FileLock(folder / f"{name}.lock")
        self._quiet = folder / f"{name}.quiet"

    @contextlib.contextmanager
    def take(self, most_s: float) -> Iterator[bool]:
        """Hold the device; may be nested. It is waited for, up to so many seconds; what is given
        says whether the turn came. A process that dies gives its turn back."""
        came = self._acquired(most_s)
        try:
            yield came
        finally:
            if self._lock.is_locked:
                self._lock.release()

    def _acquired(self, most_s: float) -> bool:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(timeout=max(most_s, 0.0), poll_interval=0.01)
        except Timeout:
            return False
        except OSError:
            return True  # no place for a lock: nobody can be waited for
        return True

    def found_quiet(self) -> None:
        """Tell all processes that nobody but them uses the device now."""
        with contextlib.suppress(OSError):  # they will look for themselves
            self._quiet.touch()

    @property
    def is_quiet(self) -> bool:
        """Whether some process found that a moment ago."""
        try:
            return abs(time.time() - self._quiet.stat().st_mtime) < QUIET_S
        except OSError:
            return False


def _user() -> str:
    # where there are no numbers of users, each has a temporary folder of their own
    return str(os.getuid()) if hasattr(os, "getuid") else "turns"
