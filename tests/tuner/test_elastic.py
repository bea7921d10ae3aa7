"""``apply(..., memory="free")``: down the frontier where memory is short, up when it is back.

The device is simulated where it must be short of memory on demand: a real CPU whose allocations are
counted, and refused beyond a capacity. All computing, freeing and remembering is real.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from search_space.errors import ConfigError, MemoryShortage
from search_space.plan import Plan
from tests.tuner.one_block import assert_right, block, eager, sample
from tests.tuner.small_factory import Block
from tuner import Applied, apply
from tuner.database import (
    GraphEntry,
    LengthEntry,
    PlanRow,
    Reference,
    database_files,
    read_file,
    write_graph,
)
from tuner.environment import device_name
from tuner.runtime.choose import rungs
from tuner.runtime.free_memory import free_memory_of
from tuner.runtime.ladder import HEADROOM

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 192


class Device(TorchDispatchMode):
    """Counts what calls allocate, and refuses more than its capacity, as a device would."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.capacity = capacity
        self.taken_by_others = 0
        self.live = 0
        self.refused = 0
        self._seen: set[int] = set()

    def free(self) -> int:
        return self.capacity - self.taken_by_others - self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {
            leaf.untyped_storage()._cdata
            for leaf in pytree.tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        for leaf in pytree.tree_leaves(result):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key in self._seen or key in inputs:
                continue
            if storage.nbytes() > self.free():
                self.refused += 1
                raise MemoryError(f"DefaultCPUAllocator: no {storage.nbytes()} bytes")
            self._seen.add(key)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._leave, key, storage.nbytes())
        return result

    def _leave(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return block()


@pytest.fixture(scope="module")
def plans(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frontier of three: unchanged, half of that, and the lowest but for small chunks."""
    folder = tmp_path_factory.mktemp("plans")
    prepared = apply(model, (sample(LENGTH),)).prepare(sample(LENGTH))
    memory, selector = prepared.analysis.memory, prepared.analysis.selector
    plan = prepared.chosen.plan
    half = selector.within(selector.unchunked_bytes // 2)
    small = selector.within(int(half.peak_bytes * 0.7))

    def row(made: Plan, latency_ms: float) -> PlanRow:
        peak = memory.profile(made.choices).peak_bytes
        return PlanRow(made, peak, peak, latency_ms, latency_ms, latency_ms, latency_ms)

    rows = (row(small.plan, 3.0), row(half.plan, 2.0), row(plan, 1.0))
    assert rows[0].peak_bytes < rows[1].peak_bytes < rows[2].peak_bytes
    entry = LengthEntry(LENGTH, ((1, LENGTH, 32),), Reference(rows[2].peak_bytes, 1.0), rows)
    write_graph(folder, device_name("cpu"), "block",
                GraphEntry(plan.fingerprint, {}, {"n0": LENGTH}, None, (entry,)))  # fmt: skip
    return folder


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "autochunk")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "autochunk"]


def peaks(applied: Applied) -> list[int]:
    """The peaks of the tuned plans, fastest first."""
    entry = applied._wish.plans.judged(applied.plan.fingerprint)
    assert entry is not None
    rows = entry.entry.lengths[0].frontier
    return [row.peak_bytes for row in sorted(rows, key=lambda row: row.latency_ms)]


def test_each_call_takes_the_fastest_plan_that_fits_the_free_memory(
    model: torch.nn.Module, plans: Path
) -> None:
    x, free = sample(LENGTH), [1 << 40]
    applied = apply(model, (x,), plans=plans, memory=lambda: free[0])
    wanted = eager(model, x)
    found = []
    ladder = [int(peak * HEADROOM) for peak in peaks(applied)]
    # down the frontier and back up, step by step
    for now in (*ladder, *reversed(ladder), 1 << 40):
        free[0] = now
        assert_right(applied(x), wanted)
        found.append(applied.predicted_peak_bytes)
    tuned = peaks(applied)
    assert found == [*tuned, *reversed(tuned), tuned[0]]
    assert "plan 1 of 3, chosen by free memory" in applied.explain()


def test_plans_that_were_fast_compiled_are_no_rungs(
    model: torch.nn.Module, plans: Path, tmp_path: Path
) -> None:
    """Here all runs uncompiled; compiled rows serve only where there are no others."""
    analysis = apply(model, (sample(LENGTH),)).prepare(sample(LENGTH)).analysis
    (path,) = database_files(plans)
    (graph,) = read_file(path).graphs
    (length,) = graph.lengths
    *_, fastest = length.frontier
    compiled = [
        replace(one, plan=one.plan.as_compiled(), latency_ms=0.1) for one in length.frontier
    ]

    def found(rows: list[PlanRow]) -> list[Plan]:
        entry = replace(graph, lengths=(replace(length, frontier=tuple(rows)),))
        return [one.plan for one in rungs(analysis, entry, length.shapes)]

    assert found([*length.frontier, *compiled]) == found(list(length.frontier))
    assert found([*length.frontier, *compiled])[0] == fastest.plan
    assert found(compiled)


def test_where_no_tuned_plan_fits_lower_ones_are_looked_for(
    model: torch.nn.Module, plans: Path
) -> None:
    x, free = sample(LENGTH), [1 << 40]
    applied = apply(model, (x,), plans=plans, memory=lambda: free[0])
    free[0] = peaks(applied)[-1]  # less than the headroom
    assert_right(applied(x), eager(model, x))
    assert applied.predicted_peak_bytes < peaks(applied)[-1]
    assert "analytic" in applied.explain()


def test_running_out_of_memory_steps_down_once_a_step_and_is_remembered(
    model: torch.nn.Module, plans: Path, lines: Callable[[], list[str]]
) -> None:
    x, device = sample(LENGTH), Device(1 << 40)
    # as a device is whose driver calls more free than it can give in one piece
    applied = apply(model, (x,), plans=plans, memory=lambda: device.free() + (64 << 20))
    wanted = eager(model, x)
    first, second, third = peaks(applied)
    device.capacity = int(second * 1.01)
    with device:
        assert_right(applied(x), wanted)
        assert (device.refused, applied.predicted_peak_bytes) == (1, second)
        assert_right(applied(x), wanted)
        assert device.refused == 1, "what ran out is not tried again"
        device.capacity = int(third * 1.01)
        assert_right(applied(x), wanted)
        assert (device.refused, applied.predicted_peak_bytes) == (2, third)
        # memory is back: up again, as far as it goes
        device.capacity = int(first * 1.01)
        assert_right(applied(x), wanted)
        assert applied.predicted_peak_bytes == first
    assert device.refused == 2
    assert [line.startswith("autochunk: out of memory with a plan of") for line in lines()] == [
        True, True,
    ]  # fmt: skip


def test_a_lack_of_memory_that_passes_is_not_held_against_a_plan(
    model: torch.nn.Module, plans: Path
) -> None:
    x, device = sample(LENGTH), Device(1 << 40)
    applied = apply(model, (x,), plans=plans, memory=device.free)
    first, second, _ = peaks(applied)

    class Neighbour(TorchDispatchMode):
        """Takes memory once the call has begun."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            device.taken_by_others = (1 << 40) - int(second * 1.01)
            return func(*args, **(kwargs or {}))

    wanted = eager(model, x)
    with device, Neighbour():  # type: ignore[no-untyped-call]
        found = applied(x)
    assert_right(found, wanted)
    assert applied.predicted_peak_bytes == second
    device.taken_by_others = 0
    with device:
        applied(x)
    assert applied.predicted_peak_bytes == first


def test_when_nothing_fits_there_is_one_clear_error_and_nothing_stays_behind(
    model: torch.nn.Module, plans: Path
) -> None:
    x, device = sample(LENGTH), Device(1 << 40)
    applied = apply(model, (x,), plans=plans, memory=device.free)
    device.capacity = 4 * LENGTH * 32 * 4
    with device, pytest.raises(MemoryShortage, match="with every plan") as caught:
        applied(x)
    assert caught.value.__context__ is None, "it would keep the call's tensors alive"
    assert caught.value.lowest_bytes > caught.value.free_bytes == device.capacity
    assert device.live == 0
    device.capacity = 1 << 40
    with device:
        assert_right(applied(x), eager(model, x))
    assert applied.predicted_peak_bytes == peaks(applied)[0]


def test_other_errors_are_the_callers(model: torch.nn.Module, plans: Path) -> None:
    applied = apply(model, (sample(LENGTH),), plans=plans, memory=lambda: 1 << 40)

    class Broken(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            raise ValueError("not about memory")

    with Broken(), pytest.raises(ValueError, match="not about memory"):  # type: ignore[no-untyped-call]
        applied(sample(LENGTH))


def test_without_a_database_the_ladder_is_analytic(model: torch.nn.Module) -> None:
    x, free = sample(LENGTH), [1 << 40]
    applied = apply(model, (x,), memory=lambda: free[0])
    unchanged = applied.predicted_peak_bytes
    assert not applied.plan.choices
    free[0] = unchanged // 3
    assert_right(applied(x), eager(model, x))
    assert applied.plan.choices
    assert applied.predicted_peak_bytes * HEADROOM <= free[0] + 1
    free[0] = 1 << 40
    applied(x)
    assert applied.predicted_peak_bytes == unchanged


def test_a_budget_pins_the_choice(model: torch.nn.Module, plans: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        apply(model, (sample(LENGTH),), plans=plans, memory="free", memory_budget=0.5)
    with pytest.raises(ConfigError, match="'free' or a function"):
        apply(model, (sample(LENGTH),), memory="lots")  # type: ignore[call-overload]
    pinned = apply(model, (sample(LENGTH),), plans=plans, memory_budget=1.0)
    device = Device(peaks(pinned)[0] // 2)
    with device, pytest.raises(MemoryError):
        pinned(sample(LENGTH))


def test_the_systems_free_memory_is_told() -> None:
    source = free_memory_of("cpu")
    assert source() > 64 << 20

    def taken() -> int:
        """How much less is free with 256 MiB more in use."""
        before = source()
        ballast = torch.ones(256 << 18)  # written
        after = source()
        del ballast
        return before - after

    # other processes take and give back memory meanwhile: once they must not
    assert any(abs(taken() - (256 << 20)) < 128 << 20 for _ in range(20))


REAL = """
import resource, torch
from tests.tuner.one_block import assert_right, block, eager, sample
from tests.tuner.small_factory import Block
from tuner import apply

torch.set_num_threads(1)
torch.manual_seed(0)
model = Block(32, 4).eval()
x = torch.randn(1, 2400, 32)
applied = apply(model, (x,), memory=lambda: 1 << 40)
with torch.no_grad():
    wanted = model(x)
before = applied.predicted_peak_bytes
assert not applied.plan.choices
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + before // 2, resource.RLIM_INFINITY))
found = applied(x)
torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
assert applied.plan.choices and applied.predicted_peak_bytes < before // 2
print("stepped down")
"""


def test_a_real_out_of_memory_error_steps_down() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REAL],
        # (else the C library may keep what the eager model took, and nothing runs out)
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
             "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "stepped down"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_frontier_is_walked_down_and_back_up() -> None:
    torch.manual_seed(0)
    model = Block(64, 4).eval().cuda()
    x = torch.randn(1, 4096, 64, device="cuda")
    applied = apply(model, (x,), memory="free")
    wanted = applied(x)
    whole = applied.predicted_peak_bytes
    free = free_memory_of("cuda")()
    ballast = torch.empty(free - whole // 2, dtype=torch.uint8, device="cuda")
    assert_right(applied(x), wanted)
    assert applied.predicted_peak_bytes <= whole // 2
    del ballast
    applied(x)
    assert applied.predicted_peak_bytes == whole


def test_the_inputs_of_a_call_are_not_kept(model: torch.nn.Module) -> None:
    x = sample(LENGTH)
    there = weakref.ref(x)
    applied = apply(model, (x,), memory=lambda: 1 << 30)
    applied(x)
    del x
    assert there() is None


def test_after_a_search_that_ran_out_of_memory_lower_plans_are_still_found(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, given = sample(LENGTH), [1 << 30]
    applied = apply(model, (x,), memory=lambda: given[0])
    before = applied.predicted_peak_bytes
    given[0] = before // 2
    with monkeypatch.context() as patch:
        patch.setattr("tuner.runtime.serving.lower_rungs", _no_memory)
        with pytest.raises(MemoryError):
            applied(x)
    assert_right(applied(x), eager(model, x))
    assert applied.predicted_peak_bytes < before


def _no_memory(*args: object) -> None:
    raise MemoryError
