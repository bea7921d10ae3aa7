"""A subject's unchanged graph at all of its lengths, timed in turns in one process.

Lengths that are measured one after the other differ by what the machine did meanwhile: by 5 to 10 %
within some minutes on a shared one, more than a prediction across lengths is to be off.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.cost_subjects import ROOT, CostSubject, subjects_on
from search_space.errors import MeasurementError
from search_space.space import make_plan
from tuner.factory import build
from tuner.measure.backends import backend_for
from tuner.measure.isolate import Isolated
from tuner.measure.protocol import Repeats, Status
from tuner.measure.timing import interleave, quick
from tuner.measure.turns import PATIENCE_S
from tuner.runtime.apply import apply_plan
from tuner.runtime.captures import Captures

_ROUNDS = 40


def unchunked_ms(subject: CostSubject, folder: Path) -> dict[str, float]:
    """Milliseconds of a subject's unchanged graph, by length: what decides on its device."""
    target = "experiments.cost_lengths:Session"
    spec = {"name": subject.name, "device": subject.device}
    with Isolated(target, spec, log=folder / "lengths.log") as session:
        found = session.request({}, 4 * PATIENCE_S)
    if found["status"] != Status.OK.value:
        raise MeasurementError(f"{subject.name}: {found['status']}: {found['reason']}")
    return {length: float(ms) for length, ms in found["unchunked_ms"].items()}


class Session:
    """The measuring end, in a process of its own."""

    def __init__(self, spec: dict[str, Any]) -> None:
        wanted = subjects_on(spec["device"])
        self._subject = next(one for one in wanted if one.name == spec["name"])

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time all lengths."""
        config = self._subject.config(Path())
        backend = backend_for(self._subject.device)
        subject = build(config.model, backend.device, ROOT)
        captures = Captures(subject.model)
        calls = {}
        for length in self._subject.lengths:
            args, kwargs = subject.inputs(length)
            plan = make_plan(captures.locate(args, kwargs).captured.graph)
            applied = apply_plan(subject.model, plan, args, kwargs, captures=captures)
            calls[str(length)] = partial(applied, *args, **kwargs)
        repeats = Repeats(
            warmup=2, repeats=_ROUNDS, most=_ROUNDS, budget_s=300.0, settled=True, least_ms=20.0
        )
        with backend.turn(PATIENCE_S) as alone, torch.no_grad():
            if not alone:
                raise MeasurementError("another campaign keeps the device; wait for its end")
            samples = interleave(backend, calls, repeats)
        found = {name: quick(one.decisive_ms) for name, one in samples.items()}
        return {"status": Status.OK.value, "unchunked_ms": found}

    def classify(self, error: BaseException) -> tuple[str, bool]:
        """Whatever fails, fails."""
        return Status.CRASH.value, True
