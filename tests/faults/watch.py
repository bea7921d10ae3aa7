"""What a ledger's bytes say, without the code that wrote them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.measure.confine import leftovers

MEASURED = ("environment", "baseline", "region", "check", "plan")


def left_over(folder: Path, within_s: float = 5.0) -> int:
    """How many processes of a campaign are there, once those that were killed had a moment to go.

    Args:
        folder: the campaign's output.
    """
    deadline = time.monotonic() + within_s
    while (found := leftovers(str(folder.resolve()))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(found)


@dataclass
class Watch:
    """Looks at a ledger again and again, and keeps count of what must never be.

    Attributes:
        lost: lines that had been on disk whole, and are no more.
    """

    path: Path
    lost: int = 0
    _seen: bytes = field(default=b"", repr=False)

    def look(self) -> None:
        """Compare with the last look."""
        whole = self.whole()
        if not whole.startswith(self._seen):
            before, now = Counter(self._seen.splitlines()), Counter(whole.splitlines())
            self.lost += max((before - now).total(), 1)
        self._seen = whole

    def whole(self) -> bytes:
        """The whole lines as they are now."""
        data = self.path.read_bytes() if self.path.exists() else b""
        return data[: data.rfind(b"\n") + 1]

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of the whole lines; each must be JSON."""
        for line in self.whole().splitlines():
            yield json.loads(line)

    def under_way(self) -> int:
        """Measurements that were begun and are not done, since the campaign was last started."""
        begun: set[str] = set()
        for record in self.records():
            if record["kind"] == "campaign":
                begun.clear()
            begun.update(record.get("keys", ()))
            begun.discard(record.get("key", ""))
        return len(begun)

    def tally(self) -> Tally:
        """What was measured, how often twice, and how often begun again after it was done."""
        done: Counter[str] = Counter()
        again = 0
        for record in self.records():
            if record["kind"] == "begin":
                again += sum(key in done for key in record["keys"])
            elif "key" in record and record.get("status") != "preempted":
                assert record["kind"] in MEASURED
                done[record["key"]] += 1
        return Tally(len(done), sum(count - 1 for count in done.values()), again)


@dataclass(frozen=True)
class Tally:
    """Distinct measurements, those recorded more than once, those begun again after they were
    done."""

    measurements: int = 0
    doubled: int = 0
    again: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.measurements + other.measurements,
            self.doubled + other.doubled,
            self.again + other.again,
        )
