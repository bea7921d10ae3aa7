"""What numbers depend on: the device's name, versions, threads."""

from __future__ import annotations

import platform

import torch


def processor_name() -> str:
    """The processor's model, as the system names it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()  # not Linux
    return platform.machine()


def device_name(device: str) -> str:
    """The name under which plans for a device (``cpu``, ``cuda`` or ``cuda:N``) are kept."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"cpu {processor_name()}"
