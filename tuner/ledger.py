"""The ledger: every measurement, one JSON line each, never changed afterwards.

It is the source of truth: databases and cost models can be made again from it. A line is on disk
before the next measurement starts. A line torn by a crash is cut off when the file is opened again;
damage anywhere else is an error. What the lines mean is told by :mod:`tuner.journal`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from search_space.errors import LedgerError
from tuner.stopping import shielded

Record = dict[str, Any]


class Ledger:
    """An open ledger; one writing process at a time, any of its threads.

    Args:
        path: the file; made where there is none.
        fresh: start over: what stands there is kept beside it, under a name with its last change.

    Raises:
        LedgerError: another process writes it, it is damaged, or it cannot be written.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(path, error) from error
        self._thread = threading.Lock()
        self._lock = FileLock(path.with_suffix(".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise LedgerError(
                f"another campaign is writing {path}; wait for it, or give this one its own output"
            ) from None
        except (OSError, NotImplementedError) as error:  # (the latter: no locks there)
            raise _unusable(path, error) from error
        try:
            if fresh:
                _set_aside(path)
            elif path.exists():
                for _ in read_ledger(path):
                    pass  # damage shows before anything is measured or changed
                _cut_torn_line(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            self._lock.release()
            raise _unusable(path, error) from error
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)
        self._lock.release()

    def append(self, kind: str, row: Mapping[str, Any]) -> Record:
        """Write one record, wait until it is on disk, and give it back as it stands there.

        Raises:
            LedgerError: the disk is full or fails; the file ends with a whole record.
        """
        return self.append_all([(kind, row)])[0]

    def append_all(self, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Record]:
        """Write records that belong together in one go."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        records = [{"kind": kind, "at": stamp, **row} for kind, row in rows]
        lines = [json.dumps(record, separators=(",", ":")) for record in records]
        with shielded(), self._thread:
            self._write("".join(f"{line}\n" for line in lines).encode())
        return records

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise LedgerError(
                f"{self.path} cannot be written: {error}. What it holds is whole; make room and "
                "run again, to go on from there"
            ) from error


def read_ledger(path: Path) -> Iterator[Record]:
    """The records of a ledger, without a torn last line.

    Raises:
        LedgerError: it cannot be read, or another line is damaged.
    """
    try:
        opened = path.open("rb")
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be read: {error}") from error
    with opened as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise LedgerError(
                    f"{path} is damaged in line {number}: {error}. Move the file away, or delete "
                    "that line, and run again"
                ) from error
            if not isinstance(record, dict) or "kind" not in record:
                raise LedgerError(f"{path} line {number} is no record of a ledger")
            yield record


def _unusable(path: Path, error: Exception) -> LedgerError:
    return LedgerError(f"the ledger {path} cannot be used: {error}; name another output folder")


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        data = file.read()
        keep = data.rfind(b"\n") + 1
        if keep != len(data):
            file.truncate(keep)
            os.fsync(file.fileno())


def _set_aside(path: Path) -> None:
    """Rename a ledger, so that a fresh start loses nothing."""
    if not path.exists():
        return
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    name = f"{path.stem}-{changed:%Y%m%dT%H%M%S}"
    aside, number = path.with_name(f"{name}{path.suffix}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{name}-{number}{path.suffix}")
    path.rename(aside)
