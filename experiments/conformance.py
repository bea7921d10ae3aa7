"""Is a model chunked right? Every candidate class at awkward chunk sizes, each in a real run.

Used by :mod:`experiments.check`. A *trial* is one plan at one length: its outputs are judged, its
measured peak is held against the memory model's, and nothing that belongs to the caller may have
been written to. A *row* gathers the trials of one class, or of one combination of classes.
"""

from __future__ import annotations

import contextlib
import gc
import io
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from experiments.judge import Judge, make_judge
from experiments.verdicts import BAD, MEMORY_ERROR, SMALL_BYTES, Report, Row, Trial, unknown_ops
from search_space.candidates import Limits, all_regions, find_classes, levels
from search_space.classes import RegionClass, chosen_size, class_key
from search_space.dim_rules import Probe
from search_space.errors import CaptureError, CyclicPlan, IllegalRegion
from search_space.liveness import MemoryModel
from search_space.nested import with_nested
from search_space.plan import Plan
from search_space.probe import Prober
from search_space.space import SearchSpace, chunk_grid
from tuner.factory import Inputs, Subject
from tuner.measure.protocol import Backend
from tuner.runtime.analysis import Analysis
from tuner.runtime.apply import Applied, apply_plan
from tuner.runtime.captures import Captures, Located
from tuner.runtime.explain import region_title

MOST_PASSES = 2048
"""Chunk sizes that would take more passes than this are left out: they only take long."""

THOROUGH = Limits(min_saving=0.0, span=1000, cuts=64, classes=100_000)
"""For every region that growth finds, whether or not it is worth anything."""


_Planned = tuple[str, int, list[tuple[int, Plan]]]
"""A row to be: title, extent, and its plans by chunk size."""


@dataclass(frozen=True)
class _Case:
    """The model's inputs at one length and the judge of its outputs."""

    length: int
    given: Inputs
    judge: Judge


def awkward_sizes(extent: int, small: int = 64) -> tuple[int, ...]:
    """Chunk sizes that divide badly, ascending: 1 where the extent is small, 3, about a third,
    half, all but one."""
    wanted = {3, extent // 3, -(-extent // 2), extent - 1}
    if extent <= small:
        wanted.add(1)
    fewest = max(1, -(-extent // MOST_PASSES))
    return tuple(sorted(size for size in wanted if fewest <= size < extent))


def every_class(memory: MemoryModel, probe: Probe | None = None) -> tuple[RegionClass, ...]:
    """Every legal region that growth finds, one of each class, whatever it saves."""
    found: dict[str, RegionClass] = {}
    for loop in all_regions(memory.graph, THOROUGH, probe):
        key = class_key(loop)
        if key not in found:
            found[key] = RegionClass(key, (loop,), *levels(memory, loop))
    return tuple(found.values())


class Check:
    """Checks one model.

    Args:
        subject: the model and its inputs by length.
        length: where candidates are found.
        other: a second length at which the same plans must hold; None for none.
        max_classes: of the classes that save most, how many are tried alone; None for all.
        seconds: no trial starts after this long; None for no limit.
        combinations: plans of several random classes, of all, at random chunk sizes.
        thorough: also regions that save nothing, or that others make pointless: no plan has them,
            but a rule that is wrong shows in them first.
    """

    def __init__(
        self,
        subject: Subject,
        backend: Backend,
        length: int,
        *,
        other: int | None = None,
        max_classes: int | None = None,
        seconds: float | None = None,
        combinations: int = 8,
        thorough: bool = False,
        seed: int = 0,
    ) -> None:
        self._model = subject.model
        self._inputs = subject.inputs
        self._backend = backend
        self._captures = Captures(subject.model)
        self._length, self._other = length, other
        self._max_classes = max_classes
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._combinations = combinations
        self._thorough = thorough
        self._random = random.Random(seed)
        self._notes: list[str] = []
        self._left_out = 0

    def run(self) -> Report:
        """All rows.

        Raises:
            ConfigError: the model itself fails, or its outputs cannot be compared.
            CaptureError: the model cannot be captured.
        """
        # the captures come first: a model that cannot be captured need not be run
        located = self._locate(self._length)
        cases = [self._case(self._length)]
        if self._other is not None:
            cases += self._second_case(self._other, located)
        captured = located.captured
        probe = Prober()
        analysis = Analysis.unmeasured(captured.graph, located.bindings, probe)
        classes = (every_class if self._thorough else find_classes)(analysis.memory, probe=probe)
        space = SearchSpace(analysis.memory, with_nested(analysis.memory, classes, probe=probe))
        whole = Plan(captured.graph.fingerprint)
        plans: list[_Planned] = [
            ("the captured model, unchunked", 0, [(0, whole)])
        ]
        chosen = self._chosen(space)
        for text, plan in self._combine(space):
            plans.append((text, 0, [(0, plan)]))
        for item in chosen:
            sizes = awkward_sizes(item.extent)
            settings = [(size, space.decode({item.key: size})) for size in sizes]
            # from the middle: the extremes come last
            settings.sort(key=lambda setting: abs(setting[0] - item.extent // 3))
            plans.append((_title(item), item.extent, settings))
        with _frozen():
            rows = self._rows(plans, cases)
        if self._left_out:
            untried = sum(not row.trials for row in rows)
            self._notes.append(
                f"time limit reached: {self._left_out} runs were left out, and {untried} classes "
                "not tried at all (--seconds)"
            )
        return Report(
            captured.graph.fingerprint,
            len(captured.graph.nodes),
            len(space.classes),
            cases[0].judge.unit,
            tuple(row for row in rows if row.trials),
            unknown_ops(analysis.sized),
            tuple(self._notes),
            self._left_out,
        )

    def _locate(self, length: int) -> Located:
        args, kwargs = self._inputs(length)
        # a capture that fails prints its graph; the exception says what is wrong
        with contextlib.redirect_stderr(io.StringIO()):
            return self._captures.locate(args, kwargs)

    def _case(self, length: int) -> _Case:
        given = self._inputs(length)
        floating = (p.dtype for p in self._model.parameters() if p.dtype.is_floating_point)
        inputs = (
            leaf.dtype
            for leaf in pytree.tree_leaves(given)
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        )
        dtype = next(floating, None) or next(inputs, torch.float32)
        return _Case(length, given, make_judge(self._model, given, dtype))

    def _second_case(self, length: int, first: Located) -> list[_Case]:
        """The case of the other length, where the first capture serves it."""
        try:
            second = self._locate(length)
        except CaptureError as error:
            self._notes.append(f"length {length} cannot be captured: {error}")
            return []
        if second.captured is not first.captured:
            self._notes.append(
                f"captured per length: the capture at {self._length} does not hold at {length} "
                f"(graph {second.captured.graph.fingerprint} there), so that its plans are not "
                f"tried at {length}; check that length on its own"
            )
            return []
        return [self._case(length)]

    def _chosen(self, space: SearchSpace) -> Sequence[RegionClass]:
        classes = sorted(space.classes, key=lambda item: (-item.saves_bytes, item.key))
        if self._max_classes is not None and len(classes) > self._max_classes:
            self._notes.append(
                f"{self._max_classes} of {len(classes)} classes checked, those that save most "
                "(--max-classes)"
            )
            return classes[: self._max_classes]
        return classes

    def _combine(self, space: SearchSpace) -> Iterator[tuple[str, Plan]]:
        """Distinct plans of several classes; fewer where there are not as many."""
        seen: set[Plan] = set()
        for _ in range(4 * self._combinations):
            if len(seen) == self._combinations:
                return
            setting = {
                item.key: self._random.choice(
                    (*awkward_sizes(item.extent), *chunk_grid(item.extent), 0, 0)
                )
                for item in space.classes
            }
            plan = space.decode(setting)
            if len(plan.choices) > 1 and plan not in seen:
                seen.add(plan)
                sizes = ", ".join(str(chosen_size(choice)) for choice in plan.choices)
                yield f"combination of {len(plan.choices)} classes, chunks {sizes}", plan

    def _rows(self, plans: Sequence[_Planned], cases: Sequence[_Case]) -> list[Row]:
        """All trials, in rounds: one chunk size of every row, then the next of every row, so that a
        time limit costs sizes rather than classes."""
        found: list[list[Trial]] = [[] for _ in plans]
        for turn in range(max(len(settings) for _, _, settings in plans)):
            for trials, (_, _, settings) in zip(found, plans, strict=True):
                if turn >= len(settings):
                    continue
                size, plan = settings[turn]
                for case in cases:
                    if self._deadline is not None and time.monotonic() > self._deadline:
                        self._left_out += 1
                    elif size and not plan.choices:
                        reason = "the class cannot be scheduled, so that no plan has it"
                        trials.append(Trial(case.length, size, "failed", reason))
                    else:
                        trials.append(self._trial(size, plan, case, again=not trials))
        return [
            Row(title, extent, tuple(trials))
            for trials, (title, extent, _) in zip(found, plans, strict=True)
        ]

    def _trial(self, size: int, plan: Plan, case: _Case, *, again: bool) -> Trial:
        """One plan run; ``again`` runs it twice, since what a run leaves behind may harm the
        next."""
        args, kwargs = case.given
        home = case.length == self._length
        try:
            fast = apply_plan(self._model, plan, args, kwargs, captures=self._captures)
        except (IllegalRegion, CyclicPlan) as error:
            verdict = "failed" if home else "not legal"
            return Trial(case.length, size, verdict, _line(error))
        except Exception as error:  # every failure is the row's verdict
            return Trial(case.length, size, "failed", f"apply_plan: {_line(error)}")
        versions = self._versions(case)
        runs = 2 if again else 1
        trial = Trial(case.length, size, "ok")
        for _ in range(runs):
            trial = self._run(size, fast, case)
            if trial.verdict == "peak off":  # a first call may allocate what stays
                trial = self._run(size, fast, case)
            if trial.verdict != "ok":
                break
        if trial.verdict not in BAD and self._versions(case) != versions:
            reason = "an input, parameter or buffer was written to"
            return Trial(case.length, size, "failed", reason)
        return trial

    def _run(self, size: int, fast: Applied, case: _Case) -> Trial:
        args, kwargs = case.given
        try:
            found, peak = self._backend.peak(lambda: fast(*args, **kwargs))
        except Exception as error:  # every failure is the row's verdict
            return Trial(case.length, size, "failed", _line(error))
        judged = case.judge(found)
        predicted, measured = fast.predicted_peak_bytes, peak.requested_bytes
        verdict, reason = ("wrong", judged.reason) if judged.reason else ("ok", "")
        off = abs(predicted - measured)
        if verdict == "ok" and off > max(MEMORY_ERROR * measured, SMALL_BYTES):
            verdict, reason = "peak off", f"predicted {predicted} bytes, measured {measured}"
        return Trial(case.length, size, verdict, reason, judged.error, predicted, measured)

    def _versions(self, case: _Case) -> list[int]:
        """How often each tensor of the caller's was written to in place."""
        tensors: list[Any] = [*self._model.parameters(), *self._model.buffers()]
        tensors += [t for t in pytree.tree_leaves(case.given) if isinstance(t, torch.Tensor)]
        return [tensor._version for tensor in tensors if not tensor.is_inference()]


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """With all that exists now kept from the garbage collector: each measured run collects first,
    which would otherwise take longer than the run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _title(item: RegionClass) -> str:
    times = f", {len(item.loops)} times" if len(item.loops) > 1 else ""
    loop = item.loops[0]
    last = loop.graph.nodes[loop.region.anchor]
    dim = loop.region.dims[-1]
    inside = f", loops inside chunks of {item.outer_size}" if item.inner else ""
    return (
        f"{region_title(loop)}: {last.label} {last.output.shape} by dimension {dim}{times}{inside}"
    )


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
