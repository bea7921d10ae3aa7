"""The slots that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.config import CampaignConfig
from tuner.engine.local import local_slots
from tuner.engine.protocol import Slot
from tuner.measure.backends import resolve_device


def engine_device(config: CampaignConfig) -> str:
    """The device that a configuration means: ``auto`` as the engine has it.

    Raises:
        ConfigError: the device or the engine is not there.
    """
    if config.engine.kind == "ray":
        from tuner.engine.cluster import cluster_device

        return cluster_device(config)
    return resolve_device(config.device)


def make_slots(config: CampaignConfig, target: str) -> Sequence[Slot]:
    """A campaign's slots.

    Args:
        config: with a resolved device.
        target: the submodule to measure in place of the whole model, or an empty text.

    Raises:
        ConfigError: the engine cannot be had; the message says why.
    """
    if config.engine.kind == "ray":
        from tuner.engine.cluster import ray_slots  # an optional extra

        return ray_slots(config, target)
    return local_slots(config, target)
