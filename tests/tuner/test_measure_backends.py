"""What every backend must do, tried on each device that is there."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from typing import Any

import pytest
import torch

from search_space.errors import ConfigError
from tuner.measure.backends import backend_for, resolve_device
from tuner.measure.ceilings import measure_ceilings
from tuner.measure.cpu import CpuBackend, cpu_seconds
from tuner.measure.cuda import CudaBackend
from tuner.measure.protocol import CONTENDED, Backend

MIB = 2**20
NO_CUDA = not torch.cuda.is_available()


@pytest.fixture(
    scope="module",
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(NO_CUDA, reason="needs a CUDA device")],
        ),
    ],
)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_for(request.param)


def test_a_busy_core_is_contended() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(before)])
    spin = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    others = [subprocess.Popen(spin, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        made = CpuBackend()
        # a third of the core is left: a moment is enough to tell, asked for or waited for
        assert made.contention() > CONTENDED
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass
        assert 0.3 < made.contention() <= 1.0
    finally:
        os.sched_setaffinity(0, before)
        for other in others:
            other.kill()
            other.communicate()


def block(backend: Backend, size_bytes: int = MIB) -> torch.Tensor:
    """A fresh tensor of so many bytes."""
    return torch.zeros(size_bytes // 4, device=backend.device)


def test_the_peak_is_that_of_the_tensors_alive_at_once(backend: Backend) -> None:
    def two_at_once() -> torch.Tensor:
        # no numbers as operands: each would be a tensor of a few bytes, which counts too
        a = block(backend)
        b = a.exp()
        del a
        return b + b

    result, peak = backend.peak(two_at_once)
    assert peak.activation_bytes == 2 * MIB
    assert torch.equal(result, torch.full_like(result, 2))

    def three_at_once() -> torch.Tensor:
        a = block(backend)
        b = a.exp()
        return a + b

    assert backend.peak(three_at_once)[1].activation_bytes == 3 * MIB


def test_sizes_are_counted_to_the_allocators_grain(backend: Backend) -> None:
    grain = 512 if backend.device.startswith("cuda") else 1
    for size in (4, 400, 5000, 300_004):
        _, peak = backend.peak(partial(block, backend, size))
        assert peak.activation_bytes == math.ceil(size / grain) * grain


def test_the_output_counts_and_what_was_there_before_does_not(backend: Backend) -> None:
    before = block(backend, 3 * MIB)
    assert backend.peak(lambda: before.exp())[1].activation_bytes == 3 * MIB
    result, peak = backend.peak(lambda: before.view(3, -1)[1:])
    assert peak.activation_bytes == 0
    assert result.data_ptr() == before.data_ptr() + MIB
    nothing, peak = backend.peak(lambda: None)
    assert nothing is None
    assert peak.activation_bytes == 0


def test_a_peak_is_not_lowered_by_what_came_and_went_before_it(backend: Backend) -> None:
    def many_then_few() -> torch.Tensor:
        for _ in range(5):
            block(backend, 2 * MIB)
        return block(backend)

    assert backend.peak(many_then_few)[1].activation_bytes == 2 * MIB
    # a second reading of the same call is the same
    assert backend.peak(many_then_few)[1].activation_bytes == 2 * MIB


def test_an_error_in_the_call_comes_through_and_the_next_reading_is_right(
    backend: Backend,
) -> None:
    def fails() -> None:
        block(backend)
        raise KeyError("of its own")

    with pytest.raises(KeyError, match="of its own"):
        backend.peak(fails)
    with pytest.raises(KeyError, match="of its own"):
        backend.time_call(fails)
    assert backend.peak(lambda: block(backend))[1].activation_bytes == MIB


def test_a_call_takes_time_and_its_result_is_dropped(backend: Backend) -> None:
    side = torch.ones(256, 256, device=backend.device)
    ran: list[int] = []

    def work() -> torch.Tensor:
        ran.append(1)
        made = side
        for _ in range(20):
            made = made @ side / 256
        return made

    decisive, wall = backend.time_call(work)
    assert 0 < decisive < math.inf
    assert 0 < wall < math.inf
    assert ran == [1]


def test_threads_that_run_are_counted_up_to_now() -> None:
    """The system adds up what a running thread has spent a few times in ten milliseconds."""
    block_of_data = bytes(2**20)
    over = threading.Event()

    def works() -> None:
        while not over.is_set():
            hashlib.sha256(block_of_data)  # (without the interpreter's lock)

    grown = 0
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(works)
        try:
            before = -math.inf
            for _ in range(1000):
                others = cpu_seconds() - time.thread_time()
                grown += others > before + 2e-5
                before = others
                time.sleep(1e-4)
        finally:
            over.set()
        working.result()
    assert grown >= 400  # (the other half of the time something else may have had its core)


def test_running_out_of_memory_is_recognised(backend: Backend) -> None:
    with pytest.raises(Exception) as caught:
        torch.empty(2**50, device=backend.device)
    assert backend.is_out_of_memory(caught.value)
    assert not backend.is_fatal(caught.value)
    for other in (RuntimeError("shapes do not match"), ValueError("memory"), KeyError("x")):
        assert not backend.is_out_of_memory(other)
        assert not backend.is_fatal(other)
    backend.settle()
    assert backend.peak(lambda: block(backend))[1].activation_bytes == MIB


@pytest.mark.gpu
@pytest.mark.skipif(NO_CUDA, reason="needs a CUDA device")
def test_a_gpu_is_one_campaigns_at_a_time() -> None:
    first, second = CudaBackend(), CudaBackend()
    with first.turn(60) as came, second.turn(0) as also:  # other tests may hold it for a moment
        assert came
        assert not also
    with second.turn(60) as came:
        assert came


def test_the_environment_says_what_numbers_depend_on(backend: Backend) -> None:
    found = backend.environment()
    assert {"device", "device_name", "torch"} <= set(found)
    assert found["device"] == backend.device
    assert found["torch"] == torch.__version__
    assert all(isinstance(value, str) and value for value in found.values())


def test_ceilings_are_positive_and_finite(backend: Backend) -> None:
    found = measure_ceilings(backend)
    *figures, filling, _ = astuple(found)
    assert all(0 < value < math.inf for value in figures)
    # only a GPU has multiprocessors to fill
    assert (filling > 0) == backend.device.startswith("cuda")
    assert (found.rates is None) == backend.device.startswith("cuda")


def test_a_disturbed_start_does_not_lower_the_ceilings() -> None:
    class Disturbed(CpuBackend):
        """Most of the calls take twenty times as long as they should, the first ones all."""

        made = 0

        def time_call(self, call: Callable[[], Any]) -> tuple[float, float]:
            self.made += 1
            slow = self.made <= 24 or self.made % 5
            return (20.0, 20.0) if slow else (1.0, 1.0)

    found = measure_ceilings(Disturbed())
    assert found.launch_s == pytest.approx(1e-3 / 200)
    assert found.copy_bytes_per_s == pytest.approx(2 * 64 * 2**20 / 1e-3)
    assert found.matmul_flops_per_s == pytest.approx(2 * 1024**3 / 1e-3)


def test_devices_are_resolved_by_name() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cpu" if NO_CUDA else "cuda")
    assert isinstance(backend_for("cpu"), CpuBackend)
    if NO_CUDA:
        with pytest.raises(ConfigError, match="no CUDA device"):
            resolve_device("cuda:0")
    else:
        assert resolve_device("cuda:0") == "cuda:0"
        assert isinstance(backend_for("cuda:0"), CudaBackend)
        with pytest.raises(ConfigError, match="there are"):
            resolve_device(f"cuda:{torch.cuda.device_count()}")
