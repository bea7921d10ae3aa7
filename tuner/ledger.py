"""The ledger: every measurement, one JSON line each, never changed afterwards.

It is the source of truth: databases and cost models can be made again from it. A line is on disk
before the next measurement starts. A line torn by a crash is cut off when the file is opened again;
damage anywhere else is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from search_space.errors import LedgerError


class Ledger:
    """An open ledger; one writer at a time.

    Raises:
        LedgerError: another process writes it, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_suffix(".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise LedgerError(
                f"another campaign is writing {path}; wait for it, or give this one its own output"
            ) from None
        try:
            if path.exists():
                for _ in read_ledger(path):
                    pass  # damage shows before anything is measured or changed
                _cut_torn_line(path)
            self._file = path.open("ab")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._lock.release()

    def append(self, kind: str, row: Mapping[str, Any]) -> None:
        """Write one record and wait until it is on disk."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"kind": kind, "at": stamp, **row}, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read_ledger(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a ledger, without a torn last line.

    Raises:
        LedgerError: another line is damaged.
    """
    with path.open("rb") as file:
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


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        data = file.read()
        keep = data.rfind(b"\n") + 1
        if keep != len(data):
            file.truncate(keep)
            os.fsync(file.fileno())
