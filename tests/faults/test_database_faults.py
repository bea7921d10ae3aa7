"""The plan database on full disks and in read-only folders, and against hostile contents."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tuner.test_database import DEVICE, MODEL, graph_entry
from tuner.database import model_path, read_file, write_graph

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


CHILD = """
import json, os, resource, sys
sys.path.insert(0, sys.argv[1])
import tuner.database, tests.tuner.test_database as made
from pathlib import Path
from search_space.errors import DatabaseError
folder, trouble = Path(sys.argv[2]), sys.argv[3]
if trouble == "full":  # the system refuses to let a file grow, as a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
elif os.geteuid() == 0:
    os.setuid(65534)
try:
    tuner.database.write_graph(folder, made.DEVICE, made.MODEL, made.graph_entry("beef"))
except DatabaseError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize("trouble", ["full", "read-only"])
@pytest.mark.parametrize("there", [True, False], ids=["there", "new"])
def test_a_disk_that_takes_nothing_leaves_what_there_was(
    open_folder: Path, trouble: str, there: bool
) -> None:
    path = model_path(open_folder, DEVICE, MODEL)
    if there:
        write_graph(open_folder, DEVICE, MODEL, graph_entry())
    before = path.read_bytes() if there else b""
    if trouble == "read-only":
        for folder in (path.parent, open_folder):
            if folder.exists():
                os.chmod(folder, 0o555)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT), str(open_folder), trouble],
        capture_output=True, text=True, timeout=100, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message = json.loads(done.stdout)
    assert str(path) in message and "cannot be written" in message
    assert "What it held is unchanged" in message
    if there:
        assert path.read_bytes() == before
        assert read_file(path).graphs == (graph_entry(),), "reading needs no lock"
    if trouble == "full":
        assert {file.suffix for file in path.parent.iterdir()} <= {".yaml", ".lock"}
        write_graph(open_folder, DEVICE, MODEL, graph_entry("beef"))  # there is room again


def _deep(good: str) -> str:
    return good.replace("float32", "{a: " * 40_000)


HOSTILE: dict[str, Callable[[str], str]] = {
    "aliases": lambda good: "a: &a [1,1,1,1,1,1,1,1]\n"
    + "".join(f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join([f'*{chr(97 + k)}'] * 9)}]\n"
              for k in range(12)) + good,
    "brackets": _deep,
    "indicators": lambda good: "- " * 2_000_000,
    "empty values": lambda good: "[" + "," * 4_000_000 + "]",
    "nodes": lambda good: good.replace("nodes: ", "nodes: " + "0..999999," * 50_000),
    "dims": lambda good: good.replace("dims: ", "dims: " + "1x1000000," * 50_000),
    "occurrences": lambda good: good.replace("at: [", "at: [" + "7, " * 150_000),
    "classes": lambda good: good.replace(
        "    regions:\n", "    regions:\n" + "".join(
            f"      x{k}: {{nodes: '-99999..0', dims: 0x100000, at: [200000]}}\n"
            for k in range(3000)
        )),
    "a long number": lambda good: good.replace("2250", "9" * 4_000_000),
    "a tag": lambda good: good.replace(
        "float32", "!!python/object/apply:os.system ['touch PWNED']"
    ),
}  # fmt: skip

READ = """
import resource, sys
import tuner.database
from pathlib import Path
from search_space.errors import DatabaseError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        tuner.database.read_file(Path(name))
    except DatabaseError as error:
        assert len(str(error)) < 2000
        print("refused")
    else:
        print("read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_hostile_files_are_refused_in_little_memory_and_run_nothing(tmp_path: Path) -> None:
    good = write_graph(tmp_path, DEVICE, MODEL, graph_entry()).read_text("utf-8")
    files = []
    for name, make in HOSTILE.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(make(good), encoding="utf-8")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, files)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=200, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *verdicts, grown_mib = done.stdout.split()
    assert verdicts == ["refused"] * len(HOSTILE)
    assert int(grown_mib) < 1000
    assert time.monotonic() - started < 60
    assert not (tmp_path / "PWNED").exists()
