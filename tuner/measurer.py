"""The campaign's side of measuring: requests to the isolated process, records in the ledger."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cost_models.ceilings import Ceilings
from search_space import errors
from search_space.classes import RegionClass
from search_space.errors import AutoChunkError, MeasurementError
from search_space.graph import Graph
from search_space.plan import Plan, encode_plan, encode_regions
from tuner.config import CampaignConfig
from tuner.ledger import Ledger
from tuner.measure.isolate import Isolated
from tuner.measure.protocol import Repeats, Samples
from tuner.measure.variables import QUIET

Row = dict[str, Any]


@dataclass(frozen=True)
class Described:
    """A length as captured: the graph, its symbols' values, and all input shapes.

    ``eager_peak_bytes`` is what a run without data says (0 where it cannot), ``free_bytes`` the
    device's memory at hand.
    """

    length: int
    graph: Graph
    bindings: Mapping[str, int]
    shapes: tuple[tuple[int, ...], ...]
    eager_peak_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Baseline:
    """The eager model at a length; ``status`` other than ok says why there are no numbers."""

    status: str
    reason: str
    peak_bytes: int = 0
    eager: Samples = Samples((), ())
    unchunked: Samples = Samples((), ())


@dataclass(frozen=True)
class Confirmed:
    """One plan's real run. Without an ``ok`` there may be no samples. ``requested_bytes`` is the
    peak without what the allocator rounds up, which is what can be predicted."""

    plan: Plan
    status: str
    reason: str
    peak_bytes: int = 0
    requested_bytes: int = 0
    predicted_bytes: int = 0
    max_abs_diff: float = 0.0
    samples: Samples = Samples((), ())
    reference: Samples = Samples((), ())


class Measurer:
    """Asks the measuring process and records every answer.

    Args:
        config: resolved, with a real device.
        target: the submodule to measure in place of the whole model, or an empty text.
    """

    def __init__(self, config: CampaignConfig, ledger: Ledger, target: str = "") -> None:
        self._config = config
        self._ledger = ledger
        paths = os.pathsep.join(dict.fromkeys([*(p for p in sys.path if p), str(Path.cwd())]))
        self._process = Isolated(
            "tuner.worker:Session",
            {"config": config.plain(), "folder": str(config.folder), "target": target},
            log=config.output / "measuring.log",
            environment={"PYTHONPATH": paths, **QUIET},
        )

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the measuring process; may be called again."""
        self._process.close()

    def targets(self, length: int) -> tuple[str, ...]:
        """The first target of each distinct graph, as the model is at a length.

        Raises:
            CaptureError, ConfigError: the user's model or targets do not allow it.
            MeasurementError: the process could not answer.
        """
        what = f"the targets could not be captured at length {length}"
        return tuple(self._must({"job": "targets", "length": length}, what)["targets"])

    def environment(self) -> tuple[dict[str, str], Ceilings]:
        """The device's environment and measured ceilings.

        Raises:
            MeasurementError: the process could not answer.
        """
        reply = self._must({"job": "environment"}, "the device could not be measured")
        self._ledger.append("environment", reply)
        return reply["environment"], Ceilings(**reply["ceilings"])

    def describe(self, length: int) -> Described:
        """Capture the model at a length.

        Raises:
            CaptureError, ConfigError: the user's model or inputs do not allow it.
            MeasurementError: the process could not answer.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.pickle"
            reply = self._must(
                {"job": "describe", "length": length, "path": str(path)},
                f"the model could not be captured at length {length}",
            )
            graph, bindings, shapes = pickle.loads(path.read_bytes())  # our own child's
        return Described(
            length, graph, bindings, shapes, reply["eager_peak_bytes"], reply["free_bytes"]
        )

    def baseline(self, length: int, fingerprint: str) -> Baseline:
        """The eager model and the unchunked capture, whose peak and latency all else is set
        against."""
        reply = self._request(
            {"job": "baseline", "length": length, "repeats": asdict(self._repeats())}
        )
        self._ledger.append("baseline", {"length": length, "graph": fingerprint, **reply})
        if reply["status"] != "ok":
            return Baseline(reply["status"], reply["reason"])
        samples = reply["samples"]
        return Baseline(
            "ok", "", reply["peak"]["activation_bytes"], _samples(samples["eager"]),
            _samples(samples["unchunked"]),
        )  # fmt: skip

    def region(
        self, length: int, item: RegionClass, chunk_sizes: Sequence[int], budget_s: float
    ) -> dict[str, Samples] | None:
        """One class timed alone: ``whole``, and each chunk size under its text; None if that
        failed (the ledger says how)."""
        repeats = Repeats(warmup=1, repeats=3, most=6, budget_s=budget_s, tight=0.05)
        reply = self._request({
            "job": "region",
            "length": length,
            "regions": encode_regions(item.regions[:1]),
            "chunk_sizes": list(chunk_sizes),
            "repeats": asdict(repeats),
        })  # fmt: skip
        self._ledger.append("region", {"length": length, "class": item.key, **reply})
        if reply["status"] != "ok":
            return None
        return {name: _samples(found) for name, found in reply["samples"].items()}

    def check(self, length: int, plan: Plan, reference: Plan | None) -> Confirmed:
        """Run a plan once: its peak, and whether its outputs are the eager model's (or those of a
        reference plan). It has no samples yet."""
        reply = self._request({
            "job": "peak",
            "length": length,
            "plan": encode_plan(plan),
            "reference": None if reference is None else encode_plan(reference),
        })  # fmt: skip
        if reply["status"] != "ok":
            row = {"length": length, "plan": encode_plan(plan), **reply}
            self._ledger.append("plan", row)
            return Confirmed(plan, reply["status"], reply["reason"])
        return Confirmed(
            plan, "ok", "", reply["peak"]["activation_bytes"], reply["peak"]["requested_bytes"],
            reply["predicted_bytes"], reply["max_abs_diff"],
        )  # fmt: skip

    def together(
        self, length: int, plans: Sequence[Confirmed], reference: Plan | None, *, more: int = 1
    ) -> list[Confirmed]:
        """Plans that were checked before, timed in turns with each other; up to ``more`` times the
        configured repeats while their ratios are not known well.

        Where a batch fails, its plans are timed one by one, so that one cannot spoil the others.
        """
        reply = self._batch(length, plans, reference, more)
        if reply["status"] != "ok" and len(plans) > 1:
            return [done for one in plans
                    for done in self.together(length, [one], reference, more=more)]  # fmt: skip
        return self._timed(length, plans, reference, reply)

    def _batch(
        self, length: int, plans: Sequence[Confirmed], reference: Plan | None, more: int
    ) -> Row:
        request = {
            "job": "plans",
            "length": length,
            "plans": [encode_plan(one.plan) for one in plans],
            "reference": None if reference is None else encode_plan(reference),
            "repeats": asdict(self._repeats(more)),
        }
        return self._request(request, times=1 + len(plans))

    def _timed(
        self, length: int, plans: Sequence[Confirmed], reference: Plan | None, reply: Row
    ) -> list[Confirmed]:
        """What a batch gave each of its plans, recorded."""
        found = []
        for place, one in enumerate(plans):
            if reply["status"] == "ok":
                samples = reply["samples"]
                own, beside = samples[str(place)], samples["reference"]
                done = replace(one, samples=_samples(own), reference=_samples(beside))
            else:
                done = replace(one, status=reply["status"], reason=reply["reason"])
            found.append(done)
            self._ledger.append("plan", {
                "length": length,
                "plan": encode_plan(one.plan),
                "reference": "eager" if reference is None else encode_plan(reference),
                "status": done.status,
                "reason": done.reason,
                "peak_bytes": done.peak_bytes,
                "requested_bytes": done.requested_bytes,
                "predicted_bytes": done.predicted_bytes,
                "max_abs_diff": done.max_abs_diff,
                "samples": done.samples.plain(),
                "reference_samples": done.reference.plain(),
            })  # fmt: skip
        return found

    def not_run(self, length: int, plan: Plan, status: str, reason: str) -> Confirmed:
        """Record a plan that was not run at all."""
        self._ledger.append(
            "plan",
            {"length": length, "plan": encode_plan(plan), "status": status, "reason": reason},
        )
        return Confirmed(plan, status, reason)

    def _repeats(self, more: int = 1) -> Repeats:
        confirm = self._config.confirm
        return Repeats(
            confirm.warmup, confirm.repeats, more * confirm.repeats, budget_s=confirm.timeout_s / 6
        )

    def _request(self, request: Mapping[str, Any], times: int = 1) -> Row:
        return self._process.request(request, times * self._config.confirm.timeout_s)

    def _must(self, request: Mapping[str, Any], what: str) -> Row:
        reply = self._request(request)
        if reply["status"] == "ok":
            return reply
        if reply["status"] == "refused":
            kind = getattr(errors, reply["error"], AutoChunkError)
            if kind is not errors.BudgetError:
                raise kind(reply["reason"])
        log = self._config.output / "measuring.log"
        raise MeasurementError(f"{what}: {reply['status']}: {reply['reason']}. The log is {log}")


def _samples(row: Mapping[str, Sequence[float]]) -> Samples:
    return Samples(tuple(row["decisive_ms"]), tuple(row["wall_ms"]))
