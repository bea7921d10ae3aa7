"""The measuring end of :mod:`experiments.reach`: one subject in a process of its own."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from experiments.subjects import BARS, Bar, Subject
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import BudgetError, CaptureError
from search_space.plan import decode_plan
from tuner.measure.backends import backend_for
from tuner.measure.compare import compare
from tuner.measure.protocol import Peak, Repeats, Status
from tuner.measure.timing import interleave, median, ratio
from tuner.runtime.apply import Applied, apply, apply_plan


def bar(key: str) -> Bar:
    """The row of the table with this key."""
    (found,) = (row for row in BARS if row.key == key)
    return found


def subject(key: str) -> Subject:
    """The subject of a row; a factory for campaigns."""
    return bar(key).make()


class Session:
    """Measures one subject: the eager model, then plans against it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        if limit := spec["memory_bytes"]:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        torch.set_num_threads(spec["threads"])
        row = bar(spec["key"])
        self._model, inputs = row.make()
        self._args, self._kwargs = inputs(row.length)
        self._backend = backend_for("cpu")
        self._eager = 0

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """``eager``, or ``budget`` with a budget, or ``plan`` with a plan as plain values."""
        if request["do"] == "eager":
            return self._measure_eager()
        started = time.monotonic()
        try:
            fast = self._prepared(request)
        except BudgetError as error:
            return {"status": "refused", "reason": str(error), "lowest_bytes": error.lowest_bytes}
        prepared_s = time.monotonic() - started
        reply = self._measure(fast, request["pairs"], request["seconds"])
        return {"status": Status.OK.value, "prepare_s": prepared_s, **reply}

    def _prepared(self, request: dict[str, Any]) -> Applied:
        if request["do"] == "plan":
            return apply_plan(self._model, decode_plan(request["plan"]), self._args, self._kwargs)
        return apply(self._model, self._args, self._kwargs, memory_budget=request["budget"])

    def _call(self) -> Any:
        with torch.no_grad():
            return self._model(*self._args, **self._kwargs)

    def _peak(self, call: Callable[[], Any]) -> tuple[Any, Peak]:
        """Of the second call: the first of a process may allocate what stays."""
        call()
        return self._backend.peak(call)

    def _measure_eager(self) -> dict[str, Any]:
        output, peak = self._peak(self._call)
        del output
        self._eager = peak.requested_bytes
        reply = {"status": Status.OK.value, "peak_bytes": self._eager}
        try:
            predicted = eager_peak_bytes(self._model, self._args, self._kwargs)
        except CaptureError as error:
            return {**reply, "predicted_bytes": None, "reason": str(error)}
        return {**reply, "predicted_bytes": predicted}

    def _measure(self, fast: Applied, pairs: int, seconds: float) -> dict[str, Any]:
        def chunked() -> Any:
            return fast(*self._args, **self._kwargs)

        found, peak = self._peak(chunked)
        expected = self._call()
        difference = compare(found, expected, 1e-5, 0.0)
        del found, expected
        samples = interleave(
            self._backend, {"eager": self._call, "chunked": chunked},
            Repeats(1, pairs, pairs, budget_s=seconds),
        )  # fmt: skip
        times = ratio(samples["chunked"].decisive_ms, samples["eager"].decisive_ms)
        return {
            "peak_bytes": peak.requested_bytes,
            "predicted_bytes": fast.predicted_peak_bytes,
            "error": difference.max_rel,
            "wrong": difference.reason,
            "ratio": times.median,
            "ratio_low": times.low,
            "ratio_high": times.high,
            "pairs": len(samples["eager"].decisive_ms),
            "eager_cpu_ms": median(samples["eager"].decisive_ms),
            "explain": fast.explain().splitlines(),
        }

    def classify(self, error: BaseException) -> tuple[str, bool]:
        """Memory that ran out is no crash."""
        if self._backend.is_out_of_memory(error):
            return Status.OOM.value, True
        return Status.CRASH.value, True
