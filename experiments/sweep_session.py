"""The measuring end of :mod:`experiments.sweep`: one family in a process of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import time
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from experiments.image_models import set_attention
from experiments.judge import Judge, make_judge
from experiments.zoo import FAMILIES
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import BudgetError, CaptureError
from tuner.factory import Inputs
from tuner.measure.backends import backend_for
from tuner.measure.protocol import Status
from tuner.runtime.applied import Applied
from tuner.runtime.apply import apply


class Session:
    """Tries one family: its eager peak, then budgets, each at both lengths."""

    def __init__(self, spec: dict[str, Any]) -> None:
        faulthandler.dump_traceback_later(spec["tell_after_s"])  # what took so long, in the log
        chosen = FAMILIES[spec["name"]]
        self._model, inputs = chosen()
        self._kernels = None
        if spec.get("fused"):
            self._kernels = "sdpa"
            write_out(self._model)
        self._lengths = tuple(dict.fromkeys(chosen.lengths))
        self._given = [inputs(length) for length in self._lengths]
        self._backend = backend_for("cpu")
        self._judges: dict[int, Judge] = {}

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """``eager``: the peak of the model as it is. ``budget``: a plan for it, tried."""
        if request["do"] == "eager":
            return {"status": Status.OK.value, **self._eager_peak()}
        started = time.monotonic()
        floor = None
        with contextlib.redirect_stderr(io.StringIO()):  # a capture that fails prints its graph
            try:
                fast = self._applied(request["budget"])
            except BudgetError as error:
                floor = error.lowest_bytes
                fast = self._applied(floor)
        analysis_s = time.monotonic() - started
        explained = fast.explain().splitlines()
        loops = len(fast.plan.choices)
        started = time.monotonic()
        runs = [self._run(fast, place) for place in range(len(self._given))]
        return {
            "status": Status.OK.value, "floor_bytes": floor, "analysis_s": analysis_s,
            "runs_s": time.monotonic() - started, "loops": loops, "explain": explained,
            "runs": runs,
        }  # fmt: skip

    def classify(self, error: BaseException) -> tuple[str, bool]:
        """Every failure is this family's alone; the next request gets a new process."""
        return Status.CRASH.value, True

    def _applied(self, budget: float | int | str) -> Applied:
        args, kwargs = self._given[0]
        return apply(self._model, args, kwargs, memory_budget=budget, kernels=self._kernels)

    def _judge(self, place: int) -> Judge:
        if place not in self._judges:
            self._judges[place] = make_judge(self._model, self._given[place], torch.float32)
        return self._judges[place]

    def _eager_peak(self) -> dict[str, int | None]:
        """Measured, and told without running it; None where it cannot be told."""
        try:
            told = eager_peak_bytes(self._model, *self._given[0])
        except CaptureError:
            told = None
        self._judge(0)  # which runs it: a first call may allocate what stays
        _, peak = self._backend.peak(lambda: _call(self._model, self._given[0]))
        return {"peak_bytes": peak.requested_bytes, "told_bytes": told}

    def _run(self, fast: Applied, place: int) -> dict[str, Any]:
        """Outputs judged and peak measured at one length; at the second a budget may be refused,
        with its reason."""
        length, given = self._lengths[place], self._given[place]
        try:
            _call(fast, given)
        except BudgetError as error:
            if place == 0:
                raise
            return {"length": length, "refused": str(error)}
        found, peak = self._backend.peak(lambda: _call(fast, given))
        judged = self._judge(place)(found)
        return {
            "length": length, "error": judged.error, "wrong": judged.reason,
            "predicted_bytes": fast.predicted_peak_bytes, "measured_bytes": peak.requested_bytes,
        }  # fmt: skip


def has_plain_attention(model: torch.nn.Module) -> bool:
    """Whether all attention of a diffusers model is the library's plain one, of which there are
    both forms."""
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    return all(
        isinstance(module.processor, (AttnProcessor, AttnProcessor2_0))
        for module in model.modules()
        if isinstance(module, Attention)
    )


def write_out(model: torch.nn.Module) -> None:
    """Have a library's model write its attention out, where it offers a choice."""
    if type(model).__module__.startswith("diffusers.") and has_plain_attention(model):
        set_attention(model, "eager")
    choose = getattr(model, "set_attn_implementation", None)
    if choose is not None:
        choose("eager")


def _call(model: torch.nn.Module, given: Inputs) -> Any:
    args, kwargs = given
    with torch.no_grad():
        return model(*args, **kwargs)
