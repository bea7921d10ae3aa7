"""What runs for one set of a model's input shapes: the example run's calls of targets, and a plan
for each distinct block within what the budget leaves it.

The budget is the whole model's; :mod:`tuner.runtime.outside` says what of it a target gets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from cost_models.select import mib
from search_space.budget import Budget
from search_space.errors import BudgetError, CaptureError
from search_space.rewrites import Kernels
from tuner.runtime.analysis import Analysis
from tuner.runtime.blocks import (
    Arguments,
    Family,
    GraphKey,
    Ready,
    Target,
    Workshop,
    describe_shapes,
    graph_key,
    read_arguments,
    real_like,
    without_data,
)
from tuner.runtime.captures import Located
from tuner.runtime.choose import Chosen, choose_for, eager_or_captured_peak
from tuner.runtime.compiled_run import explain_compiled, known_peak
from tuner.runtime.explain import explain_plan
from tuner.runtime.find_targets import suggestion
from tuner.runtime.gate import GATE
from tuner.runtime.kernels import Forms
from tuner.runtime.lookup import Plans, device_of
from tuner.runtime.outside import Outside
from tuner.runtime.replaced import unchanged
from tuner.runtime.wish import Compiling

log = logging.getLogger("autochunk")


@dataclass
class Call:
    """All calls of one target with arguments of one key, in the example run.

    ``outside_bytes`` is the most that was alive when one of them began.
    """

    target: Target
    arguments: Arguments
    outside_bytes: int
    located: Located | None = None


@dataclass
class Recording:
    """The example run: the calls of targets, by target and key, and what was alive around them.

    ``weights`` is of what kind each target's own weights are: a run without data lends it others.
    """

    outside: Outside
    weights: Mapping[str, object]
    calls: dict[tuple[str, object], Call] = field(default_factory=dict)

    def note(self, target: Target, arguments: Arguments) -> Call:
        """One more call. What is kept of its arguments keeps no tensor of the run alive."""
        live = self.outside.live_bytes
        key = (target.name, arguments.key)
        if key not in self.calls:
            with _disable_current_modes():
                args, kwargs = without_data((arguments.args, arguments.kwargs))
            held = Arguments(args, kwargs, (), arguments.key)
            self.calls[key] = Call(target, held, live)
        call = self.calls[key]
        call.outside_bytes = max(call.outside_bytes, live)
        return call


@dataclass(frozen=True)
class Distinct:
    """One graph at one set of sizes, and the targets that run it.

    Attributes:
        names: the targets, in the order of their first calls.
        outside_bytes: the most that is alive outside when one of them begins, its inputs included.
    """

    names: tuple[str, ...]
    shapes: str
    outside_bytes: int
    analysis: Analysis
    chosen: Chosen
    ready: Ready


@dataclass(frozen=True)
class Scene:
    """All that runs for one set of the model's input shapes."""

    distinct: tuple[Distinct, ...]
    ready: dict[tuple[str, object], Ready]
    outside_peak_bytes: int
    eager_peak_bytes: int | None
    limit_bytes: int | None

    @property
    def peak_bytes(self) -> int:
        inside = (
            one.outside_bytes + known_peak(one.chosen.peak_bytes, one.ready.compiled)
            for one in self.distinct
        )
        return max(self.outside_peak_bytes, *inside)


class CannotCapture(BaseException):
    """A target cannot be captured; another choice of targets may do. (Models, in whose runs it is
    raised, may catch what is an Exception.)"""

    def __init__(self, target: Target, error: CaptureError) -> None:
        super().__init__(str(error))
        self.target = target
        self.error = error


class SceneMaker:
    """Chooses plans for the calls of targets. Captures, analyses and code are shared by all targets
    that they fit.

    Attributes:
        families: of the targets, by name; whoever changes the targets sets them.
        workshop: what is made.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        plans: Plans,
        budget: Budget | None,
        kernels: Kernels,
        compiling: Compiling = False,
    ) -> None:
        self.model = model
        self.families: Mapping[str, Family] = {}
        self.workshop = Workshop(compiling)
        self._plans = plans
        self._forms = Forms(kernels, lambda graph: plans.judged(graph) is not None)
        self._budget = budget
        self._choices: dict[tuple[GraphKey, Budget | None], Chosen] = {}

    def forget(self) -> None:
        """Free all that was made."""
        self.workshop.clear()
        self._choices.clear()

    def read(
        self,
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        weights: object = None,
    ) -> Arguments:
        try:
            return read_arguments(target, args, kwargs, weights)
        except CaptureError as error:
            raise CannotCapture(target, error) from error

    def locate(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Located:
        try:
            located = self.families[target.name].locate(target, args, kwargs)
        except CaptureError as error:
            raise CannotCapture(target, error) from error
        return replace(located, captured=self._forms.chosen(located.captured, located.bindings))

    def choose_all(self, recording: Recording, eager: int | None) -> Scene:
        """A plan for each distinct block, within what the budget leaves it."""
        calls = list(recording.calls.values())
        if not calls:
            raise CaptureError(
                "no target was called in the example run; is what was named called by another "
                f"method than forward? {suggestion(self.model)}"
            )
        for call in calls:
            if call.located is None:
                call.located = self.locate(call.target, *self._with_data(call))
        groups: dict[GraphKey, list[Call]] = {}
        for call in calls:
            assert call.located is not None
            groups.setdefault(graph_key(call.located), []).append(call)
        outside = [max(call.outside_bytes for call in group) for group in groups.values()]
        firsts = [group[0] for group in groups.values()]
        if eager is None:
            eager = self._eager_peak(recording, firsts, outside)
        limit = None if self._budget is None else self._budget.resolve(eager)
        beyond = recording.outside.outside_peak_bytes
        chosen = self._within(firsts, outside, beyond, limit)
        distinct, ready = [], {}
        for group, own, bytes_outside in zip(groups.values(), chosen, outside, strict=True):
            for call in group:
                assert call.located is not None
                made = self.workshop.ready(
                    call.target, call.located, own, partial(self._examples, call)
                )
                ready[call.target.name, call.arguments.key] = made
            first = group[0]
            assert first.located is not None
            distinct.append(
                Distinct(
                    tuple(dict.fromkeys(call.target.name for call in group)),
                    describe_shapes((first.arguments.args, first.arguments.kwargs)),
                    bytes_outside,
                    self.workshop.analysis(first.located),
                    own,
                    ready[first.target.name, first.arguments.key],
                )
            )
        return Scene(tuple(distinct), ready, beyond, eager, limit)

    def _with_data(self, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        device = _device_of(call.target.module, self.model)
        given: tuple[tuple[Any, ...], dict[str, Any]] = real_like(
            (call.arguments.args, call.arguments.kwargs), device
        )
        return given

    def _examples(self, call: Call) -> list[torch.Tensor]:
        leaves = pytree.tree_leaves(self._with_data(call))
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def _within(
        self, calls: Sequence[Call], outside: Sequence[int], beyond: int, limit: int | None
    ) -> list[Chosen]:
        """Plans such that the whole model stays within the limit; with none, as the budget says."""
        if self._budget is None:
            return [self._chosen(call, None) for call in calls]
        if limit is None:
            lowest = [self._chosen(call, Budget()) for call in calls]
            # nothing is won below what the rest of the model needs
            inside = (o + own.peak_bytes for o, own in zip(outside, lowest, strict=True))
            limit = max(beyond, *inside)
            return [
                own if o + own.peak_bytes == limit else self._chosen(call, _left(limit, o))
                for call, own, o in zip(calls, lowest, outside, strict=True)
            ]
        floor, short = beyond, "the parts outside of the targets"
        found = []
        for call, own_outside in zip(calls, outside, strict=True):
            try:
                found.append(self._chosen(call, _left(limit, own_outside)))
            except BudgetError as error:
                if own_outside + error.lowest_bytes > floor:
                    floor = own_outside + error.lowest_bytes
                    short = f"target {call.target.name!r} (outside of it {mib(own_outside)})"
        if floor > limit:
            raise BudgetError(
                f"no plans keep the whole model within {mib(limit)}: {short} need"
                f"{'s' if short.startswith('target') else ''} {mib(floor)}. Ask for at least that "
                "much, or target more of the model",
                lowest_bytes=floor,
            )
        return found

    def _chosen(self, call: Call, budget: Budget | None) -> Chosen:
        assert call.located is not None
        return self.choose(call.located, budget, call.target, call.arguments)

    def choose(
        self, located: Located, budget: Budget | None, target: Target, arguments: Arguments
    ) -> Chosen:
        """A block's plan; without a budget, the database's own for this block holds."""
        key = (graph_key(located), budget)
        if key not in self._choices:
            self._choices[key] = self._choose_anew(located, budget, target, arguments)
        return self._choices[key]

    def _choose_anew(
        self, located: Located, budget: Budget | None, target: Target, arguments: Arguments
    ) -> Chosen:
        analysis = self.workshop.analysis(located)
        return choose_for(
            self._plans.on(device_of(self.model)),
            analysis,
            located.shapes,
            budget,
            lambda: self._eager_of(target, analysis, arguments),
            f"target {target.name!r}",
        )

    def _eager_of(self, target: Target, analysis: Analysis, arguments: Arguments) -> int:
        with GATE.tracing(), target.replaced.bare() as module, unchanged(module):
            return eager_or_captured_peak(module, analysis, arguments.args, arguments.kwargs)

    def _eager_peak(
        self, recording: Recording, firsts: Sequence[Call], outside: Sequence[int]
    ) -> int:
        """The eager model's peak where it cannot run without data, put together from its parts."""
        inside = []
        for call, own in zip(firsts, outside, strict=True):
            assert call.located is not None
            analysis = self.workshop.analysis(call.located)
            inside.append(own + self._eager_of(call.target, analysis, call.arguments))
        return max(recording.outside.outside_peak_bytes, *inside)
    def prepare_late(self, scene: Scene, target: Target, arguments: Arguments) -> None:
        """A call that the example run at these sizes did not make: what the model does depends on
        its data, or the target was called from elsewhere."""
        try:
            located = self.locate(target, arguments.args, arguments.kwargs)
        except CannotCapture as failure:
            raise CaptureError(f"target {target.name!r}: {failure.error}") from failure.error
        known = [one.outside_bytes for one in scene.distinct if target.name in one.names]
        outside = max(known or [one.outside_bytes for one in scene.distinct])
        log.info(
            "autochunk: target %r is called as never in the example run; taken that as much "
            "is alive outside of it as then (%s)", target.name, mib(outside),
        )  # fmt: skip
        budget = self._budget
        if scene.limit_bytes is not None:
            budget = _left(scene.limit_bytes, outside)
        chosen = self.choose(located, budget, target, arguments)
        scene.ready[target.name, arguments.key] = self.workshop.ready(
            target, located, chosen, lambda: arguments.tensors
        )
        self.workshop.forget()

    def run_lowest(self, target: Target, arguments: Arguments, located: Located) -> Any:
        """A call by the plan of the lowest peak; as it is, where nothing asks for less memory."""
        budget = None if self._budget is None and not self._plans else Budget()
        chosen = self.choose(located, budget, target, arguments)
        return self.workshop.ready(target, located, chosen).run(arguments.tensors)


def explain_scene(
    scene: Scene, model: torch.nn.Module, targets: int, workshop: Workshop
) -> list[str]:
    """The plans of a scene as a person reads them."""
    eager = "unknown" if scene.eager_peak_bytes is None else mib(scene.eager_peak_bytes)
    limit = "" if scene.limit_bytes is None else f", budget {mib(scene.limit_bytes)}"
    lines = [
        f"{targets} targets of {type(model).__name__}, "
        f"{len(scene.distinct)} distinct; predicted activation peak of the whole model "
        f"{mib(scene.peak_bytes)}, eager {eager}{limit}; while no target runs "
        f"{mib(scene.outside_peak_bytes)}"
    ]
    for one in scene.distinct:
        more = f" and {len(one.names) - 1} more" if len(one.names) > 1 else ""
        lines.append(
            f"\n{one.names[0]}{more}, called with {one.shapes}; alive outside "
            f"{mib(one.outside_bytes)}"
        )
        lines.append(explain_plan(one.analysis, one.chosen))
        if workshop.compiler is not None and workshop.compiles(one.chosen.plan):
            lines.extend(explain_compiled(workshop.compiler, one.ready.compiled))
    return lines


def _left(limit: int, outside: int) -> Budget:
    """What a limit leaves to a target."""
    return Budget(absolute_bytes=max(limit - outside, 1))



def _device_of(target: torch.nn.Module, model: torch.nn.Module) -> torch.device:
    for module in (target, model):
        weight = next(module.parameters(), None)
        if weight is not None:
            return weight.device
    return torch.device("cpu")
