"""The default engine: this machine's devices, one slot each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from search_space.errors import ConfigError
from tuner.config import CampaignConfig
from tuner.environment import device_name
from tuner.measure.confine import MARK, available_bytes
from tuner.measure.isolate import Isolated
from tuner.measure.variables import QUIET

HOST_SHARE = 0.9
"""Of the host memory at hand: what measuring processes may take, so that the machine survives."""


def local_slots(config: CampaignConfig, target: str) -> list[Isolated]:
    """The slots of a campaign on this machine.

    Args:
        config: with a resolved device. ``cuda`` has a slot for each GPU of the first one's kind,
            ``cuda:N`` one; a CPU has one, or as many as the configuration says, each with cores of
            its own.
        target: the submodule to measure in place of the whole model, or an empty text.

    Raises:
        ConfigError: more slots than devices or cores are asked for.
    """
    if config.device.startswith("cuda"):
        return _gpu_slots(config, target)
    count = config.engine.slots or 1
    cores = sorted(_cores())
    if count > len(cores):
        raise ConfigError(f"engine.slots: {count} slots need as many cores; there are {len(cores)}")
    shares = [cores[k::count] if count > 1 else [] for k in range(count)]
    return [
        isolated(config, target, name=f"cpu:{place}" if count > 1 else "cpu", cores=share,
                 count=count)
        for place, share in enumerate(shares)
    ]  # fmt: skip


def _gpu_slots(config: CampaignConfig, target: str) -> list[Isolated]:
    if config.device != "cuda":
        return [isolated(config, target, name=config.device)]
    names = [device_name(f"cuda:{place}") for place in range(torch.cuda.device_count())]
    alike = [place for place, name in enumerate(names) if name == names[0]]
    count = config.engine.slots or len(alike)
    if count > len(alike):
        raise ConfigError(
            f"engine.slots: {count} were asked for, but there are {len(alike)} GPUs of the kind "
            f"{names[0]}; a campaign tunes for one kind"
        )
    if count == 1:
        return [isolated(config, target, name="cuda")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(len(names)))))
    pinned = visible.split(",")
    return [
        isolated(config, target, name=f"cuda:{place}", count=count,
                 environment={"CUDA_VISIBLE_DEVICES": pinned[place]})
        for place in alike[:count]
    ]  # fmt: skip


def isolated(
    config: CampaignConfig,
    target: str,
    *,
    name: str,
    cores: list[int] | None = None,
    count: int = 1,
    environment: dict[str, str] | None = None,
) -> Isolated:
    """One measuring process for a campaign, with its share of the host's memory."""
    paths = os.pathsep.join(dict.fromkeys([*(p for p in sys.path if p), str(Path.cwd())]))
    cap = config.engine.host_memory_bytes or int(available_bytes() * HOST_SHARE)
    return Isolated(
        "tuner.worker:Session",
        {"config": config.plain(), "folder": str(config.folder), "target": target},
        log=config.output / "measuring.log",
        environment={"PYTHONPATH": paths, MARK: mark(config), **QUIET, **(environment or {})},
        cores=cores or (),
        memory_bytes=cap // count,
        name=name,
    )


def mark(config: CampaignConfig) -> str:
    """What a campaign's measuring processes are known by."""
    return str(config.output.resolve())


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
