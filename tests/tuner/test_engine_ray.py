"""The Ray engine on two local nodes: the same replies as the local engine, and a worker killed in
the middle of a measurement. Skipped where Ray is not installed (extra ``cluster``)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search_space.plan import Plan
from tests.faults.watch import left_over
from tests.tuner.campaigns import campaign
from tuner.config import CampaignConfig, parse_config
from tuner.engine.pool import Pool
from tuner.engine.slots import engine_device, make_slots
from tuner.journal import Journal
from tuner.ledger import Ledger, read_ledger
from tuner.measurer import Measurer

ray = pytest.importorskip("ray", reason="Ray is not installed (extra cluster)")
pytestmark = [pytest.mark.faults, pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of two nodes of one core each, on this machine."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    made.add_node(num_cpus=1)
    yield made.address
    ray.shutdown()
    made.shutdown()


def configured(folder: Path, address: str | None) -> CampaignConfig:
    engine = {"kind": "local"} if address is None else {"kind": "ray", "address": address}
    values = campaign(folder, seq_lens=[48], engine=engine)
    values["model"]["kwargs"] = {"layers": 1, "width": 16, "heads": 2}
    return parse_config(values, folder)


def measured(config: CampaignConfig) -> dict[str, Any]:
    """What does not depend on the clock: environment, graph, peaks."""
    with (
        Ledger(config.output / "ledger.jsonl") as ledger,
        Measurer(config, Journal(ledger)) as measurer,
    ):
        environment, _ = measurer.environment()
        described = measurer.describe(48)
        baseline = measurer.baseline(48)
        plan = Plan(described.graph.fingerprint)
        (done,) = measurer.together(48, [measurer.check(48, plan, None)], None)
    assert baseline.status == done.status == "ok"
    return {
        "environment": environment, "graph": described.graph.fingerprint,
        "eager": baseline.peak_bytes, "peak": done.peak_bytes, "diff": done.max_abs_diff,
        "keys": {r["key"] for r in read_ledger(config.output / "ledger.jsonl") if "key" in r},
    }  # fmt: skip


def test_the_results_are_those_of_the_local_engine(cluster: str, tmp_path: Path) -> None:
    remote = configured(tmp_path / "remote", cluster)
    assert engine_device(remote) == "cpu"
    assert measured(remote) == measured(configured(tmp_path / "local", None))
    assert left_over(remote.output, 10.0) == 0


def test_a_worker_killed_amid_a_measurement_costs_nothing(cluster: str, tmp_path: Path) -> None:
    config = configured(tmp_path, cluster)
    repeats = {"warmup": 0, "repeats": 400, "most": 400, "budget_s": 20.0, "tight": 0.0}
    request = {"job": "baseline", "length": 48, "repeats": repeats}
    with Pool(make_slots(config, "")) as pool:
        assert pool.size == 2
        both = pool.each({"job": "environment"}, 60.0)
        assert [reply["status"] for reply in both] == ["ok", "ok"]
        before = workers()
        assert len(before) == 2
        threading.Timer(1.0, os.kill, (before[0], signal.SIGKILL)).start()
        replies = pool.map([partial(pool.request, request, 120.0)] * 2)
        assert [reply["status"] for reply in replies] == ["ok", "ok"]
        assert all(len(r["samples"]["eager"]["wall_ms"]) == 400 for r in replies)
        after = workers()
        assert len(after) == 2 and after != before, "Ray started the actor again"
    assert left_over(config.output, 10.0) == 0


def workers() -> list[int]:
    """The processes of the actors that are there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if command.startswith(b"ray::_Worker"):
            found.append(int(folder.name))
    return sorted(found)
