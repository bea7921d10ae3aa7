"""The Ray engine: slots on the machines of a cluster (extra ``cluster``).

Each slot is an actor that keeps one isolated measuring process on its machine, so that a candidate
costs only itself there as well. An actor or a machine that dies gives ``preempted``: Ray starts the
actor again elsewhere, and the measurement is tried again. The machines need this package, the
model's code under the same path or name, and devices of one kind.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_space.errors import ConfigError
from tuner.config import CampaignConfig, parse_config
from tuner.engine.local import isolated
from tuner.engine.protocol import Reply
from tuner.measure.protocol import Status

_MARGIN_S = 660.0
"""Beyond a measurement's own time-out: for starting the process, and for Ray itself."""
_RESTART_S = 120.0


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "engine.kind: ray needs Ray, which is not installed; pip install 'autochunk[cluster]', "
            "or use engine: {kind: local}"
        ) from error
    return ray


def connect(config: CampaignConfig) -> Any:
    """Ray, connected to the cluster that the configuration names.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _ray()
    if ray.is_initialized():
        return ray
    paths = os.pathsep.join(dict.fromkeys([*(p for p in sys.path if p), str(Path.cwd())]))
    try:
        ray.init(
            address=config.engine.address,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"engine.address: no Ray cluster at {config.engine.address!r}: {error}; start one "
            "with 'ray start --head', or leave the address out"
        ) from error
    return ray


def cluster_device(config: CampaignConfig) -> str:
    """``auto`` as the cluster has it; other names as they are."""
    if config.device != "auto":
        return config.device
    return "cuda" if connect(config).cluster_resources().get("GPU", 0) else "cpu"


def ray_slots(config: CampaignConfig, target: str) -> list[RaySlot]:
    """One slot a GPU of the cluster, or one a machine where CPUs are measured.

    Raises:
        ConfigError: there is no cluster, or it has too few devices.
    """
    ray = connect(config)
    # workers have another current folder
    config = replace(config, output=config.output.resolve())
    cuda = config.device.startswith("cuda")
    alive = sum(1 for node in ray.nodes() if node["Alive"])
    most = int(ray.cluster_resources().get("GPU", 0)) if cuda else alive
    count = config.engine.slots or most
    if cuda and not 0 < count <= most:
        raise ConfigError(
            f"engine.slots: {max(count, 1)} GPUs were asked for, but the cluster has {most}"
        )
    threads = os.environ.get("OMP_NUM_THREADS")
    worker = ray.remote(_Worker).options(
        num_cpus=1,
        num_gpus=1 if cuda else 0,
        scheduling_strategy="SPREAD",
        max_restarts=-1,
        max_task_retries=0,
    )
    return [
        RaySlot(
            ray,
            worker.remote(config.plain(), str(config.folder), target, f"ray:{place}", threads),
            f"ray:{place}",
        )
        for place in range(count)
    ]


class RaySlot:
    """An actor as a slot; see :class:`tuner.engine.protocol.Slot`."""

    def __init__(self, ray: Any, actor: Any, name: str) -> None:
        self.name = name
        self._ray = ray
        self._actor = actor

    def request(self, request: Mapping[str, Any], timeout_s: float) -> Reply:
        asked = self._actor.request.remote(dict(request), timeout_s)
        try:
            reply: Reply = self._ray.get(asked, timeout=timeout_s + _MARGIN_S)
        except self._ray.exceptions.GetTimeoutError:
            return {
                "status": Status.TIMEOUT.value,
                "reason": f"no answer from the cluster within {timeout_s + _MARGIN_S:g} s",
            }
        except self._ray.exceptions.RayActorError as error:
            self._wait_until_it_is_back()
            reason = f"the actor {self.name} was lost: {type(error).__name__}"
            return {"status": Status.PREEMPTED.value, "reason": reason}
        return reply

    def kill(self) -> None:
        self._ray.kill(self._actor, no_restart=True)

    def close(self) -> None:
        # an actor that is killed cannot end its own process; the process's lifeline does
        self.kill()

    def _wait_until_it_is_back(self) -> None:
        deadline = time.monotonic() + _RESTART_S
        while time.monotonic() < deadline:
            try:
                self._ray.get(self._actor.is_there.remote(), timeout=_RESTART_S)
                return
            except self._ray.exceptions.ActorUnavailableError:
                time.sleep(0.5)  # it is being started
            except (
                self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError,
            ):  # fmt: skip
                return  # it will not come back: the next request says so


class _Worker:
    """What runs in the actor's process: one isolated measuring process, kept between requests.

    Args:
        config: resolved, as plain values; ``folder`` is where its file stood.
        threads: as for the local engine, since Ray would set its own number.
    """

    def __init__(
        self, config: Mapping[str, Any], folder: str, target: str, name: str, threads: str | None
    ) -> None:
        os.environ.pop("OMP_NUM_THREADS", None)
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
        self._process = isolated(parse_config(config, Path(folder)), target, name=name)

    def request(self, request: Mapping[str, Any], timeout_s: float) -> Reply:
        return self._process.request(request, timeout_s)

    def is_there(self) -> bool:
        return True
