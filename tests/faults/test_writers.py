"""Eight processes write to one plan database, and one of them is killed every second."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search_space.errors import DatabaseError
from tests.faults import writers
from tuner.database import model_path, read_file

ROOT = Path(__file__).resolve().parents[2]
WRITERS, ENTRIES = 8, 25


class Writer:
    """One writer, started again after a kill until all its entries are written."""

    def __init__(self, number: int, folder: Path) -> None:
        self.done = folder / f"done-{number}"
        self.done.touch()
        self._arguments = [str(folder / "plans"), str(number), str(ENTRIES), str(self.done)]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.writers", *self._arguments],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def kill(self) -> None:
        """In the middle of whatever it does."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_writers_that_are_killed_lose_and_tear_nothing(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    chance = random.Random(0)
    path = model_path(tmp_path / "plans", writers.DEVICE, writers.MODEL)
    group = [Writer(number, tmp_path) for number in range(WRITERS)]
    kills = reads = torn = 0
    next_kill = time.monotonic() + 1
    while running := [writer for writer in group if writer.process.poll() is None]:
        if time.monotonic() >= next_kill:
            chance.choice(running).kill()
            kills += 1
            next_kill += 1
        if path.exists():
            # a reader at any time: the file is whole, and holds all that was said to be there
            said = {int(n) for w in group for n in w.done.read_text(encoding="ascii").split()}
            try:
                (graph,) = read_file(path).graphs
                assert said <= {one.length for one in graph.lengths}
            except DatabaseError:
                torn += 1
            reads += 1
        time.sleep(0.2)
    assert all(writer.process.wait() == 0 for writer in group)
    wanted = [1000 * writer + k for writer in range(WRITERS) for k in range(ENTRIES)]
    (graph,) = read_file(path).graphs
    found = {one.length: one for one in graph.lengths}
    lost = sum(found.get(n) != writers.entry(n).lengths[0] for n in wanted)
    extra = len(graph.lengths) - len(wanted)
    rubbish = [one.name for one in path.parent.iterdir() if one.suffix not in (".yaml", ".lock")]
    tell(
        f"plan database: {WRITERS} processes wrote {len(wanted)} entries, {kills} kills, "
        f"{reads} reads meanwhile: lost {lost}, torn {torn}, files left over {len(rubbish)}"
    )
    assert kills >= 3
    assert lost == torn == extra == 0
    assert rubbish == []
