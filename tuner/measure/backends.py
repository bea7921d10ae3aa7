"""The backend for a device by name."""

from __future__ import annotations

import torch

from search_space.errors import ConfigError
from tuner.measure.cpu import CpuBackend
from tuner.measure.cuda import CudaBackend
from tuner.measure.protocol import Backend


def resolve_device(name: str) -> str:
    """``auto`` as ``cuda`` where there is one, else ``cpu``; other names as they are.

    Raises:
        ConfigError: the device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ConfigError(
                f"device {name!r} was asked for, but torch sees no CUDA device; use device: cpu, "
                "or install a CUDA build of torch"
            )
        index = torch.device(name).index or 0
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"device {name!r} was asked for, but there are {torch.cuda.device_count()}"
            )
    return name


def backend_for(device: str) -> Backend:
    """The backend of a resolved device name."""
    return CudaBackend(device) if device.startswith("cuda") else CpuBackend()
