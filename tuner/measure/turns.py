"""Measuring processes of different campaigns take turns on a device.

Two campaigns on one GPU would otherwise be timed against each other. Each takes the device for one
request to its measuring process at a time; what else they do goes on meanwhile. Processes in other
containers, or with another folder for temporary files, are not known of.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("autochunk")

PATIENCE_S = 600.0
"""A turn is waited for as long at most: a campaign that hangs must not stop the others."""

_POLL_S = 0.01
_COURTESY_S = 3 * _POLL_S

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
        self._left_at = -math.inf
        self._told = False

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
                self._left_at = time.monotonic()

    def _acquired(self, most_s: float) -> bool:
        # who had it leaves those who wait the time to see that it is free
        since = time.monotonic() - self._left_at
        if most_s and since < _COURTESY_S and not self._lock.is_locked:
            time.sleep(_COURTESY_S - since)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_own(self._folder):
                raise PermissionError(f"{self._folder} is not this user's own folder")
            self._lock.acquire(timeout=max(most_s, 0.0), poll_interval=_POLL_S)
        except Timeout:
            # who holds it shall look again, and see that somebody else measures
            with contextlib.suppress(OSError):
                self._quiet.unlink(missing_ok=True)
            return False
        except (OSError, NotImplementedError) as error:
            self._tell_once(error)  # and wait for nobody, since nobody can be seen
        return True

    def _tell_once(self, error: Exception) -> None:
        if not self._told:
            log.warning(
                "autochunk: campaigns on one device cannot take turns here, and may disturb each "
                "other: %s: %s. TMPDIR names another folder", type(error).__name__, error,
            )  # fmt: skip
        self._told = True

    def found_quiet(self) -> None:
        """Tell all processes that nobody but them uses the device now."""
        with contextlib.suppress(OSError):  # they will look for themselves
            if _is_own(self._folder):
                self._quiet.touch()

    @property
    def is_quiet(self) -> bool:
        """Whether some process found that a moment ago."""
        try:
            return abs(time.time() - self._quiet.stat().st_mtime) < QUIET_S
        except OSError:
            return False


def _is_own(folder: Path) -> bool:
    """Whether nobody else has a say in a folder of the system's temporary one."""
    found = folder.lstat()
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return own and stat.S_ISDIR(found.st_mode)


def _user() -> str:
    # where there are no numbers of users, each has a temporary folder of their own
    return str(os.getuid()) if hasattr(os, "getuid") else "turns"
