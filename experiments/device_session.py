"""The measuring end of the device suite: one subject run in every way, in a process of its own.

Preparing (captures, compilation, first calls, memory) and timing are separate requests: memory is
counted by process, so that several subjects can be prepared at once, and then timed one by one on a
device that does nothing else.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from experiments.device_bars import on_device, tiny_row
from experiments.judge import Judge, make_judge
from experiments.reach_session import bar
from experiments.rival_variants import Ready, build
from experiments.workspaces import kernel_workspaces
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import BudgetError, CaptureError
from search_space.plan import encode_plan
from tuner.measure.backends import backend_for
from tuner.measure.protocol import Repeats, Status
from tuner.measure.timing import interleave, median, ratio
from tuner.measure.turns import PATIENCE_S


class Session:
    """Measures ways to run one subject on one device.

    The specification names the subject's ``key``, its ``length`` (None for that of the table) and
    ``dtype``, the ``device``, and whether a ``tiny`` one will do.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        # one precision everywhere: what differs between shapes must not be how products are rounded
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._dtype: torch.dtype = getattr(torch, spec["dtype"])
        row = tiny_row(spec["key"]) if spec["tiny"] else bar(spec["key"])
        self._bar = on_device(row, spec["device"], length=spec["length"], dtype=self._dtype)
        self._backend = backend_for(spec["device"])
        self._ready: dict[str, Ready] = {}
        self._found: dict[str, dict[str, Any]] = {}
        self._judge: Judge | None = None

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """``prepare`` several ways, tell ``workspaces``, or take the ``times`` of what is ready."""
        if request["do"] == "prepare":
            return self._prepare(request["names"], request["seconds"])
        if request["do"] == "workspaces":
            return self._workspaces()
        return self._times(request["rounds"], request["seconds"])

    def _prepare(self, names: list[str], seconds: float) -> dict[str, Any]:
        """Each way's memory and error; none is begun after so many seconds."""
        started = time.monotonic()
        for name in names:
            if time.monotonic() - started > seconds:
                self._found[name] = {"status": "not started", "reason": "no time left"}
                continue
            try:
                self._found[name] = self._one(name)
            except Exception as error:  # one way's failure must not cost the others
                self._ready.pop(name, None)
                self._found[name] = self._failure(error)
            self._backend.settle()
        return {"status": Status.OK.value, "ways": self._found}

    def _failure(self, error: Exception) -> dict[str, Any]:
        status = "crash"
        if isinstance(error, BudgetError):
            status = "refused"
        elif self._backend.is_out_of_memory(error):
            status = Status.OOM.value
        return {"status": status, "reason": f"{type(error).__name__}: {error}"[:2000]}

    def _one(self, name: str) -> dict[str, Any]:
        started = time.perf_counter()
        ready = self._ready[name] = build(self._bar, name)
        prepared = time.perf_counter() - started
        started = time.perf_counter()
        ready.call()
        first = time.perf_counter() - started
        ready.call()
        output, peak = self._backend.peak(ready.call)
        if self._judge is None:
            model, inputs = self._bar.make()
            self._judge = make_judge(model, inputs(self._bar.length), self._dtype)
        judged = self._judge(output)
        return {
            "status": Status.OK.value,
            "peak_bytes": peak.requested_bytes,
            "allocated_bytes": peak.activation_bytes,
            "reserved_bytes": peak.reserved_bytes,
            "predicted_bytes": self._predicted(name, ready),
            "error": judged.error,
            "wrong": judged.reason,
            "unit": self._judge.unit,
            "prepare_s": prepared,
            "first_call_s": first,
            "plan": None if ready.applied is None else encode_plan(ready.applied.plan),
            "explain": [] if ready.applied is None else ready.applied.explain().splitlines(),
        }

    def _predicted(self, name: str, ready: Ready) -> int | None:
        """The memory model's peak, where it has one."""
        if ready.applied is not None:
            return ready.applied.predicted_peak_bytes
        if name != "eager":
            return None
        model, inputs = self._bar.make()
        try:
            return eager_peak_bytes(model, *inputs(self._bar.length))
        except CaptureError:
            return None

    def _workspaces(self) -> dict[str, Any]:
        model, inputs = self._bar.make()
        args, kwargs = inputs(self._bar.length)
        found = kernel_workspaces(model, args, kwargs, self._backend)
        return {"status": Status.OK.value, "kinds": [asdict(one) for one in found]}

    def _times(self, rounds: int, seconds: float) -> dict[str, Any]:
        calls = {name: one.call for name, one in self._ready.items()}
        if not calls:
            return {"status": Status.OK.value, "rounds": 0, "ways": {}}
        with self._backend.turn(PATIENCE_S) as alone:
            samples = interleave(
                self._backend, calls, Repeats(2, rounds, rounds, budget_s=seconds)
            )
        rows: dict[str, dict[str, Any]] = {}
        for name, one in samples.items():
            rows[name] = {"ms": median(one.decisive_ms), "wall_ms": median(one.wall_ms)}
            for other in ("eager", "compile"):
                if other in samples:
                    found = ratio(one.decisive_ms, samples[other].decisive_ms)
                    rows[name][f"over_{other}"] = [found.median, found.low, found.high]
        count = len(next(iter(samples.values())).decisive_ms)
        return {"status": Status.OK.value, "rounds": count, "ways": rows, "alone": alone}

    def classify(self, error: BaseException) -> tuple[str, bool]:
        """Memory that ran out is no crash; after an error of the device nothing can be trusted."""
        if self._backend.is_out_of_memory(error):
            return Status.OOM.value, False
        return Status.CRASH.value, True
