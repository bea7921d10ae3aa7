"""What keeps a measuring process from harming the machine, and from outliving its campaign.

Called in the process itself, before anything large is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MARK = "AUTOCHUNK_MEASURING"
"""The environment variable that every measuring process and all that it starts bear: the path of
the campaign's ledger."""


def tie(lifeline: int) -> subprocess.Popen[bytes]:
    """Let this process and its group end with its campaign, however that dies.

    A guard of its own does it, since the process itself may hang. Keep the result.

    Args:
        lifeline: a pipe whose other end the campaign alone holds.
    """
    # 0 is the group of the caller, which is this process's own
    guard = subprocess.Popen(
        ["/bin/sh", "-c", "read _; kill -9 0"], stdin=lifeline, stdout=subprocess.DEVNULL
    )
    os.close(lifeline)
    return guard


def confine(cores: Sequence[int], memory_bytes: int) -> None:
    """Keep this process to its share of the machine.

    Args:
        cores: those it may run on; empty for all.
        memory_bytes: private memory it may take; beyond it allocations fail in the process, where
            they are an ordinary out-of-memory. 0 for no cap.
    """
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if sys.platform == "linux":
        _be_the_first_to_go()
    if memory_bytes:
        _cap_memory(memory_bytes)


def _cap_memory(memory_bytes: int) -> None:
    import resource

    # not RLIMIT_AS: CUDA reserves far more addresses than it ever fills
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _be_the_first_to_go() -> None:
    """Where the machine's memory is out after all, the kernel takes this process."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        return  # a container may forbid it; the cap is what counts


def leftovers(mark: str) -> list[int]:
    """Processes of this user that bear a campaign's mark, whatever group they moved to."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (OSError, UnicodeDecodeError):
            continue  # it has ended, or is somebody else's
        if wanted in variables and state not in "ZX" and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def memory_kills() -> int | None:
    """How many processes the kernel killed for lack of memory since the start, in this group and on
    this machine; None where nobody counts."""
    counts = []
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            with open(path, encoding="ascii") as file:
                counts += [int(line.split()[1]) for line in file if line.startswith("oom_kill ")]
        except OSError:
            continue
    return sum(counts) if counts else None


def available_bytes() -> int:
    """Host memory that can still be taken: the machine's, or what the container may have."""
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free += [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvail")]
    except OSError:
        return free[0]  # not Linux
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            used = int((group / "memory.current").read_text(encoding="ascii"))
            # (cached pages of files count as used, but are given up on demand)
            rows = (group / "memory.stat").read_text(encoding="ascii").splitlines()
            cached = sum(int(row.split()[1]) for row in rows if row.startswith("inactive_file "))
            free.append(max(int(most) - used + cached, 0))
    except (OSError, ValueError):
        pass  # no group of its own: the machine's figure holds
    return min(free)
