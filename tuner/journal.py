"""What a campaign has measured, by identity, so that nothing is measured twice.

A measurement is written to the ledger twice: a ``begin`` before it starts, and its result when it
is done. Both bear its identity, ``key``, which depends on what is measured and not on the rest of
the configuration: the model's name, the graph, the length, the device with its versions, and the
plan or region. The values of weights are no part of it: neither times nor peaks depend on them, and
a model of random weights has others in every process. A campaign that is started again asks for the
same measurements in the same order and is given what is known, so that cost models, the study and
the database come out as they would have without the interruption.

A ``begin`` without a result is a measurement that was cut off. It is started again, unless the
campaign itself died :data:`MOST_DEATHS` times in it: such a candidate takes the machine down.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuner.ledger import Ledger, Record, read_ledger
from tuner.measure.protocol import Status

MOST_DEATHS = 4


def identity(kind: str, **what: Any) -> str:
    """A measurement's identity: equal for equal arguments, in every process."""
    text = json.dumps({"kind": kind, **what}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a campaign took so far, all its sessions together: seconds of its own, seconds that
    devices were busy for it, and plans that were run."""

    wall_s: float = 0.0
    device_s: float = 0.0
    runs: float = 0

    def plus(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(
            self.wall_s + other.wall_s, self.device_s + other.device_s, self.runs + other.runs
        )


class Journal:
    """A ledger with an index by identity. Thread-safe.

    Args:
        ledger: open; what it holds is read once.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread = threading.Lock()
        self._index = _Index()
        for record in read_ledger(ledger.path):
            self._index.learn(record)
        self._index.end_session()
        self.recovered = len(self._index.known)

    def known(self, key: str, timeout_s: float = 0.0) -> Record | None:
        """A measurement's record, where it was done; None where it has to be done.

        Args:
            timeout_s: what would be allowed now: what took too long before is tried again where
                more is allowed.
        """
        with self._thread:
            record = self._index.known.get(key)
        if record is None:
            return None
        if record.get("status") == Status.TIMEOUT and record.get("timeout_s", 0.0) < timeout_s:
            return None
        return record

    def deaths(self, key: str) -> int:
        """How often the campaign itself died in a measurement."""
        with self._thread:
            return self._index.deaths[key]

    def begin(self, keys: Sequence[str], what: Mapping[str, Any]) -> None:
        """Measurements start now, together."""
        self._write([("begin", {"keys": list(keys), **what})])

    def commit(self, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Measurements are done: kinds and rows, each with its ``key``."""
        self._write(rows)

    def note(self, kind: str, row: Mapping[str, Any]) -> None:
        """Write what is no measurement."""
        self._write([(kind, row)])

    def keep(self, kind: str, row: Mapping[str, Any]) -> None:
        """Write what was made of measurements, once: a campaign that goes on makes it again."""
        made = identity(kind, row=row)
        with self._thread:
            is_kept = self._index.is_kept(kind, row, made)
        if not is_kept:
            self._write([(kind, {**row, "made": made})])

    def spent(self) -> Spent:
        """What the campaign took up to the last record."""
        with self._thread:
            return self._index.spent()

    def _write(self, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        records = self._ledger.append_all(rows)
        with self._thread:
            for record in records:
                self._index.learn(record)


_REPLACED = frozenset({"result"})
"""Of these the last record of a length counts."""


def _place(kind: str, row: Mapping[str, Any]) -> object:
    return kind, row.get("target", ""), row.get("length")


class _Index:
    """What the records of a ledger say together."""

    def __init__(self) -> None:
        self.known: dict[str, Record] = {}
        self._kept: set[str] = set()
        self._last: dict[object, str] = {}
        self.deaths: Counter[str] = Counter()
        self._begun: set[str] = set()
        self._spent = Spent()
        self._session: tuple[datetime, datetime] | None = None

    def learn(self, record: Record) -> None:
        """Take in the next record."""
        if record["kind"] in ("campaign", "profile"):
            self.end_session()
        elif record["kind"] == "begin":
            self._begun.update(record["keys"])
        elif record["kind"] == "stopped":
            self._begun.clear()  # on request: the measurement is not to blame
        if "at" in record:
            at = datetime.fromisoformat(record["at"])
            self._session = (self._session[0] if self._session else at, at)
        key = record.get("key")
        if key is not None and record.get("status") != Status.PREEMPTED:
            self.known[key] = record
            self._begun.discard(key)
        if "made" in record:
            self._kept.add(record["made"])
            self._last[_place(record["kind"], record)] = record["made"]
        # (a beginning says its stage too)
        run = key is not None and record.get("stage") == "check"
        taken = Spent(0.0, record.get("took_s", 0.0), run)
        self._spent = self._spent.plus(taken)

    def is_kept(self, kind: str, row: Mapping[str, Any], made: str) -> bool:
        """Whether this was written before; of what replaces what stood before it, last."""
        if kind in _REPLACED:
            return self._last.get(_place(kind, row)) == made
        return made in self._kept

    def end_session(self) -> None:
        """What was begun and is not done was cut off by the end of the session."""
        self.deaths.update(self._begun)
        self._begun.clear()
        self._spent = self.spent()
        self._session = None

    def spent(self) -> Spent:
        """Up to the last record."""
        if self._session is None:
            return self._spent
        # (clocks are set back at times)
        taken = max((self._session[1] - self._session[0]).total_seconds(), 0.0)
        return self._spent.plus(Spent(taken))


def spent_in(path: Path) -> Spent:
    """What the campaign of a ledger took; nothing where there is none."""
    index = _Index()
    for record in read_ledger(path) if path.exists() else ():
        index.learn(record)
    return index.spent()
