"""The measuring end of :mod:`experiments.longest`: runs one length in a process of its own."""

from __future__ import annotations

import os
import resource
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from experiments.judge import TOLERANCE
from experiments.load import DTYPES, load_subject
from experiments.sized import Sized
from search_space.plan import decode_plan
from tuner.measure.backends import backend_for
from tuner.measure.compare import compare
from tuner.measure.protocol import Status
from tuner.runtime.apply import apply_plan


class Session:
    """Runs the eager model, or a given plan, at one length."""

    def __init__(self, spec: dict[str, Any]) -> None:
        if spec["threads"]:
            torch.set_num_threads(spec["threads"])
        if limit := spec["memory_bytes"]:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        self._dtype = DTYPES[spec["dtype"]]
        subject = load_subject(
            spec["factory"], arguments=spec["arguments"], dtype=spec["dtype"], inputs=spec["inputs"]
        )
        self._subject = subject
        self._example = spec["example"]
        self._sized: Sized | None = None
        self._backend = backend_for("cpu")

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """``eager``, ``plan`` or ``both`` (with a comparison of outputs) at ``length``."""
        args, kwargs = self._subject.inputs(request["length"])
        calls: dict[str, Any] = {}
        reply: dict[str, Any] = {"status": Status.OK.value}
        if request["do"] in ("eager", "both"):
            calls["eager"] = lambda: self._subject.model(*args, **kwargs)
        if request["do"] in ("plan", "both"):
            self._sized = self._sized or Sized(self._subject, self._example)
            plan = decode_plan(request["plan"])
            fast = apply_plan(
                self._subject.model, plan, args, kwargs, captures=self._sized.captures
            )
            reply["predicted_bytes"] = fast.predicted_peak_bytes
            calls["plan"] = lambda: fast(*args, **kwargs)
        results: dict[str, Any] = {}
        for name, call in calls.items():
            timing: list[float] = []

            def timed(call: Any = call, timing: list[float] = timing) -> Any:
                made: list[Any] = []
                with torch.no_grad():
                    timing.extend(self._backend.time_call(lambda: made.append(call())))
                return made.pop()

            results[name], peak = self._backend.peak(timed)
            reply[name] = {
                "measured_bytes": peak.requested_bytes, "cpu_ms": timing[0], "wall_ms": timing[1]
            }  # fmt: skip
        if len(results) == 2:
            tolerance = TOLERANCE.get(self._dtype, 2e-2)
            difference = compare(results["plan"], results["eager"], tolerance, 0.0)
            reply["error"], reply["wrong"] = difference.max_rel, difference.reason
        return reply

    def classify(self, error: BaseException) -> tuple[str, bool]:
        """Memory that ran out is no crash."""
        if self._backend.is_out_of_memory(error):
            return Status.OOM.value, True
        return Status.CRASH.value, True
