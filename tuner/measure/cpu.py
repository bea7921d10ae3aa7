"""Measuring on a CPU: process CPU time decides, and the allocator's own events give the peak."""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from search_space.errors import MeasurementError
from tuner.environment import device_name
from tuner.measure.protocol import Peak


class CpuBackend:
    """The CPU backend. See :class:`~tuner.measure.protocol.Backend`."""

    device = "cpu"

    def __init__(self) -> None:
        self._before = _scheduled()

    def time_call(self, call: Callable[[], Any]) -> tuple[float, float]:
        spent, wall = cpu_seconds(), time.perf_counter()
        result = call()
        wall, spent = time.perf_counter() - wall, cpu_seconds() - spent
        del result
        return spent * 1e3, wall * 1e3

    def peak(self, call: Callable[[], Any]) -> tuple[Any, Peak]:
        # the first call of a fresh module allocates things that stay; they are not activations
        gc.collect()
        result, events = allocator_events(call)
        live = most = 0
        for _, size in sorted(events, key=lambda event: event[0]):
            live += size
            most = max(most, live)
        return result, Peak(most, 0, most)

    def settle(self) -> None:
        gc.collect()

    def is_out_of_memory(self, error: BaseException) -> bool:
        text = str(error)
        return isinstance(error, MemoryError) or "DefaultCPUAllocator" in text

    def is_fatal(self, error: BaseException) -> bool:
        return False

    def turn(self, most_s: float) -> AbstractContextManager[bool]:
        # processes of one machine may have cores of their own; the scheduler tells if they do not
        return nullcontext(True)

    def contention(self) -> float:
        now = _scheduled()
        if now is None or self._before is None:
            return 0.0
        ran, waited = now[0] - self._before[0], now[1] - self._before[1]
        if ran < 0.02:  # it has hardly run: it has to ask for a core to know
            _spin(0.05)
            again = _scheduled()
            assert again is not None
            ran, waited, now = again[0] - now[0], again[1] - now[1], again
        self._before = now
        return waited / max(ran + waited, 1e-9)

    def environment(self) -> Mapping[str, str]:
        return {
            "device": "cpu",
            "device_name": device_name("cpu"),
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
            "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "python": platform.python_version(),
        }


_THREAD_CLOCK = 4 | 2
"""The clock of a thread: its number inverted, and these bits. Linux' own encoding."""


def cpu_seconds() -> float:
    """CPU time that this process has spent, threads that run at this moment included: until their
    own clocks are read the system counts them at its ticks alone, which may be 10 ms apart."""
    if sys.platform == "linux":
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):  # (it has ended, and was counted)
                time.clock_gettime((~int(thread) << 3) | _THREAD_CLOCK)
    return time.process_time()


def _scheduled() -> tuple[float, float] | None:
    """Seconds that this process's threads ran, and seconds that they were ready to run and had no
    core; None where the system does not tell."""
    ran = waited = 0
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/schedstat", encoding="ascii") as file:
                spent, delayed, _ = file.read().split()
            ran, waited = ran + int(spent), waited + int(delayed)
    except (OSError, ValueError):
        return None
    return ran / 1e9, waited / 1e9


def _spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def allocator_events(call: Callable[[], Any]) -> tuple[Any, list[tuple[int, int]]]:
    """A call's result, and the allocator's events meanwhile: (time in ns, bytes, negative where
    freed).

    Raises:
        MeasurementError: a profiler is running.
    """
    from torch._C._autograd import _disable_profiler, _enable_profiler, _prepare_profiler
    from torch._C._profiler import (
        ProfilerConfig,
        ProfilerState,
        _ExperimentalConfig,
        _ExtraFields_Allocation,
        _ProfilerEvent,
    )

    if torch._C._autograd._profiler_enabled():
        raise MeasurementError(
            "memory on a CPU is measured by torch's profiler, which is running already; prepare "
            "the plan before the profiler is started"
        )
    config = ProfilerConfig(
        ProfilerState.KINETO, False, True, False, False, False, _ExperimentalConfig()
    )
    activities = {ProfilerActivity.CPU}
    _prepare_profiler(config, activities)
    _enable_profiler(config, activities)
    try:
        result = call()
    finally:
        finished = _disable_profiler()
    found: list[tuple[int, int]] = []

    def visit(event: _ProfilerEvent) -> None:
        fields = event.extra_fields
        if isinstance(fields, _ExtraFields_Allocation) and fields.device.type == "cpu":
            found.append((event.start_time_ns, fields.alloc_size))
        for child in event.children:
            visit(child)

    for root in finished.experimental_event_tree():
        visit(root)
    return result, found


def cpu_cache_bytes() -> int:
    """The share of the last-level cache that one process can expect: 4 MiB where unknown."""
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (ValueError, OSError):
        size = 0
    return max(size * 2, 4 * 2**20)
