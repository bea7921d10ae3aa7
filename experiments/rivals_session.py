"""The measuring end of :mod:`experiments.rivals`: a subject run in several ways."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import time
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from experiments.reach_session import bar
from experiments.rival_variants import Ready, build
from search_space.errors import BudgetError
from search_space.plan import encode_plan
from tuner.measure.backends import backend_for
from tuner.measure.compare import compare
from tuner.measure.protocol import Repeats, Status
from tuner.measure.timing import interleave, median, ratio

FIXED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
"""With these the C library gives memory back at once, so that the resident set is what is used."""


_HEADER = 4096
"""Beside a tensor: the C library's own words, and room to align it."""


class Session:
    """Measures ways to run one subject, in a process of its own."""

    def __init__(self, spec: dict[str, Any]) -> None:
        if limit := spec["memory_bytes"]:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        torch.set_num_threads(spec["threads"])
        self._bar = bar(spec["key"])
        self._backend = backend_for("cpu")

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """``peak`` of one way, its ``start`` alone, or ``times`` of several in turns."""
        if request["do"] == "peak":
            return self._peak(request["name"])
        if request["do"] == "start":
            return self._start(request["name"])
        return self._times(request)

    def _start(self, name: str) -> dict[str, Any]:
        """Seconds until the first result, in a process that has done nothing else."""
        started = time.perf_counter()
        build(self._bar, name).call()
        return {"status": Status.OK.value, "second_start_s": time.perf_counter() - started}

    def _peak(self, name: str) -> dict[str, Any]:
        """The high-water mark of the resident set over a warm call, beyond what was there before,
        and what went through the allocator meanwhile, in another call."""
        started = time.perf_counter()
        try:
            ready = build(self._bar, name)
        except BudgetError as error:
            return {"status": "refused", "reason": str(error)}
        prepared = time.perf_counter() - started
        started = time.perf_counter()
        ready.call()
        first = time.perf_counter() - started
        ready.call()
        before = reset_high_water()
        ready.call()
        rise = status_bytes("VmHWM") - before
        output, peak = self._backend.peak(ready.call)
        del output
        return {
            "status": Status.OK.value, "rss_bytes": rise, "allocator_bytes": peak.requested_bytes,
            "prepare_s": prepared, "first_call_s": first, **_about(ready),
        }  # fmt: skip

    def _times(self, request: dict[str, Any]) -> dict[str, Any]:
        names: list[str] = request["names"]
        ready: dict[str, Ready] = {}
        found: dict[str, dict[str, Any]] = {}
        expected: Any = None
        for name in names:
            ready[name] = build(self._bar, name)
            output = ready[name].call()
            expected = output if name == "eager" else expected
            found[name] = {
                "error": compare(output, expected, request["tolerance"], 0.0).max_rel,
                "wrong": compare(output, expected, request["tolerance"], 0.0).reason,
            }
            del output
        repeats = Repeats(1, request["rounds"], request["rounds"], budget_s=request["seconds"])
        samples = interleave(
            self._backend, {name: one.call for name, one in ready.items()}, repeats
        )
        for name in names:
            row = found[name]
            row["cpu_ms"] = median(samples[name].decisive_ms)
            row["wall_ms"] = median(samples[name].wall_ms)
            for other in ("eager", "compile"):
                if other in samples:
                    times = ratio(samples[name].decisive_ms, samples[other].decisive_ms)
                    row[f"over_{other}"] = [times.median, times.low, times.high]
        rounds = len(samples[names[0]].decisive_ms)
        return {"status": Status.OK.value, "ways": found, "rounds": rounds}

    def classify(self, error: BaseException) -> tuple[str, bool]:
        """Memory that ran out is no crash."""
        if self._backend.is_out_of_memory(error):
            return Status.OOM.value, True
        return Status.CRASH.value, True


def _about(ready: Ready) -> dict[str, Any]:
    fast = ready.applied
    if fast is None:
        return {}
    return {
        "plan": encode_plan(fast.plan),
        "predicted_bytes": fast.predicted_peak_bytes,
        "explain": fast.explain().splitlines(),
    }


def reset_high_water() -> int:
    """Let the kernel count the high-water mark from here on; bytes resident now.

    What the process has freed and the C library kept is given back before: a call that found room
    there, as one after a compilation does, would seem to take no memory.

    Raises:
        OSError: pages cannot be locked here, see :func:`_lock_files`.
        MemoryError: the process may not take the room that is its own.
    """
    gc.collect()
    library = ctypes.CDLL(None, use_errno=True)
    library.malloc_trim(0)
    _fill_holes(library)
    _lock_files(library)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status_bytes("VmRSS")


def _fill_holes(library: ctypes.CDLL) -> None:
    """Take the room that was freed within the heap, without touching it, so that tensors get memory
    of their own, which goes back when they are freed. In a hole their pages would stay: a UNet's
    call took 28 MiB, or compiled 110, where 19 were ever alive."""
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    size = ctypes.c_size_t(int(FIXED["MALLOC_MMAP_THRESHOLD_"]) - _HEADER)
    end = library.sbrk(0)
    while library.sbrk(0) == end:  # (until the heap has to grow)
        if not library.malloc(size):
            raise MemoryError("no memory is left to fill the heap's holes")


def _lock_files(library: ctypes.CDLL) -> None:
    """Keep all pages of mapped files, which are libraries, in memory: a kernel that takes cold ones
    away, and gives them back when they are touched, moves the count by tens of MiB. (Other memory
    has no place to go to where there is no swap.)"""
    failed, locked, wanted = "", 0, 0
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        span, access, _, _, inode, *_ = line.split(maxsplit=5)
        if inode == "0" or not access.startswith("r"):
            continue
        first, last = (int(end, 16) for end in span.split("-"))
        wanted += last - first
        if library.mlock(ctypes.c_void_p(first), ctypes.c_size_t(last - first)):
            failed = os.strerror(ctypes.get_errno())
        else:
            locked += last - first
    if locked < 0.9 * wanted:  # (pages behind a file's end cannot be locked)
        raise OSError(f"pages cannot be locked: {failed}; run it as root, or raise the limit "
                      "(ulimit -l unlimited)")  # fmt: skip


def status_bytes(name: str) -> int:
    """A line of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
