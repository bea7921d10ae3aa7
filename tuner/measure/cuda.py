"""Measuring on a GPU: events decide, and the caching allocator gives the peak."""

from __future__ import annotations

import gc
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from tuner.environment import device_name
from tuner.measure.protocol import Peak
from tuner.measure.turns import Turns

_OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


class CudaBackend:
    """The CUDA backend. See :class:`~tuner.measure.protocol.Backend`.

    Args:
        device: ``cuda`` or ``cuda:N``.
    """

    def __init__(self, device: str = "cuda") -> None:
        self.device = device
        # cuBLAS takes its workspaces at its first calls; they must not count as anyone's peak
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            small = torch.ones(64, 64, device=device, dtype=dtype)
            (small @ small).sum().item()
            torch.bmm(small[None], small[None]).sum().item()
            torch.nn.functional.linear(small, small, small[0]).sum().item()
        self._uuid = str(torch.cuda.get_device_properties(torch.device(device)).uuid)
        self._turns = Turns(self._uuid)

    def _current(self) -> AbstractContextManager[object]:
        """The device as the current one for a while: which it is is the user's choice."""
        return torch.cuda.device(self.device)

    def time_call(self, call: Callable[[], Any]) -> tuple[float, float]:
        first = torch.cuda.Event(enable_timing=True)
        last = torch.cuda.Event(enable_timing=True)
        with self._current():
            torch.cuda.synchronize()
            wall = time.perf_counter()
            first.record()
            result = call()
            last.record()
            torch.cuda.synchronize()
            wall = time.perf_counter() - wall
        del result
        return float(first.elapsed_time(last)), wall * 1e3

    def peak(self, call: Callable[[], Any]) -> tuple[Any, Peak]:
        self.settle()
        with self._current():
            before, requested = torch.cuda.memory_allocated(), _requested("current")
            torch.cuda.reset_peak_memory_stats()
            result = call()
            torch.cuda.synchronize()
            most, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            return result, Peak(most - before, reserved, _requested("peak") - requested)

    def settle(self) -> None:
        gc.collect()
        with self._current():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def is_out_of_memory(self, error: BaseException) -> bool:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            return True
        # libraries allocate beside the caching allocator and say so in their own words
        text = str(error)
        return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)

    def is_fatal(self, error: BaseException) -> bool:
        # after a device-side assertion or an illegal access every later call fails as well
        accelerator_error: type[BaseException] | None = getattr(torch, "AcceleratorError", None)
        if accelerator_error is not None and isinstance(error, accelerator_error):
            return not isinstance(error, torch.cuda.OutOfMemoryError)
        return isinstance(error, RuntimeError) and "CUDA error" in str(error)

    def turn(self, most_s: float) -> AbstractContextManager[bool]:
        return self._turns.take(most_s)

    def contention(self) -> float:
        if self._turns.is_quiet:
            return 0.0
        # the driver tells of the last second, in which this process must not have run anything
        with self._current():
            torch.cuda.synchronize()
        time.sleep(1.1)
        asked = ["nvidia-smi", "--query-gpu=uuid,utilization.gpu", "--format=csv,noheader,nounits"]
        try:
            told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return 0.0
        for line in told.stdout.splitlines():
            name, _, share = line.partition(",")
            if self._uuid in name and share.strip().isdigit() and int(share):
                return int(share) / 100
        self._turns.found_quiet()
        return 0.0

    def environment(self) -> Mapping[str, str]:
        properties = torch.cuda.get_device_properties(torch.device(self.device))
        return {
            "device": "cuda",
            "device_name": device_name(self.device),
            "device_memory_bytes": str(properties.total_memory),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "python": platform.python_version(),
            "tf32": str(torch.backends.cuda.matmul.allow_tf32),
        }


def _requested(which: str) -> int:
    """Bytes as asked for, without what the allocator rounds up."""
    return int(torch.cuda.memory_stats()[f"requested_bytes.all.{which}"])
