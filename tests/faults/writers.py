"""A process that writes entries into a plan database, and says of each when it is there.

``python -m tests.faults.writers PLANS WRITER COUNT DONE``: entry k of writer w is the length
1000 w + k. Numbers below the count that stand in DONE are passed over, so that a killed writer's
successor goes on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from search_space.plan import Choice, Plan, Region
from tuner.database import write_graph
from tuner.entries import GraphEntry, LengthEntry, PlanRow, Reference

DEVICE, MODEL, GRAPH = "a device", "a model", "0123456789abcdef"


def entry(length: int) -> GraphEntry:
    """An entry of its own for each length."""
    choices = (Choice((Region((4, 5, 6), (1, 1, 1)), Region((14, 15, 16), (1, 1, 1))), 8),)
    row = PlanRow(Plan(GRAPH, choices), 1000 + length, 990 + length, 1.5, 0.9, 0.85, 0.95)
    made = LengthEntry(length, ((1, length),), Reference(9000 + length, 2.5), (row,))
    return GraphEntry(GRAPH, {"torch": "2"}, {"n0": 8}, None, (made,))


def main(plans: Path, writer: int, count: int, done: Path) -> None:
    """Write what is not there yet; each is noted once it is on disk."""
    known = {int(line) for line in done.read_text(encoding="ascii").split()}
    with done.open("ab", buffering=0) as file:
        for length in range(1000 * writer, 1000 * writer + count):
            if length not in known:
                write_graph(plans, DEVICE, MODEL, entry(length))
                os.write(file.fileno(), b"%d\n" % length)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
