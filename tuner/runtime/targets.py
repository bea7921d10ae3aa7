"""Submodules captured in place of the whole model, each running its own plan.

``apply(model, args, targets="blocks.*")`` replaces the forwards of the named submodules; all else
runs as it was. The example run gives their inputs. It is a run without data where the model allows
it, so that a model that does not fit unchunked can be applied; else a real one, in which every
target already runs its lowest plan. Targets that are built alike share captures, analyses and code,
each with its own weights.

The budget is the whole model's; :mod:`tuner.runtime.outside` says what of it a target gets.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from cost_models.select import mib
from search_space.budget import Budget
from search_space.errors import BudgetError, CaptureError
from search_space.plan import Plan
from tuner.database import GraphEntry
from tuner.runtime.analysis import Analysis
from tuner.runtime.blocks import (
    Arguments,
    GraphKey,
    Ready,
    Target,
    Workshop,
    describe_shapes,
    families,
    graph_key,
    read_arguments,
    real_like,
    weights_state,
    without_data,
)
from tuner.runtime.captures import Located, autocast_state
from tuner.runtime.choose import Chosen, choose, eager_or_captured_peak
from tuner.runtime.explain import explain_plan, module_code
from tuner.runtime.find_targets import (
    AUTO,
    auto_targets,
    match_targets,
    parts_of,
    suggestion,
)
from tuner.runtime.outside import Outside
from tuner.runtime.replaced import Replaced, has_hooks, unchanged

log = logging.getLogger("autochunk")

MOST_SHAPES = 64
"""Sets of the model's input shapes whose plans are kept; the oldest goes first."""

Handler = Callable[[Target, tuple[Any, ...], dict[str, Any]], Any]


@dataclass
class _Call:
    """All calls of one target with arguments of one key, in the example run.

    ``outside_bytes`` is the most that was alive when one of them began.
    """

    target: Target
    arguments: Arguments
    outside_bytes: int
    located: Located | None = None


@dataclass
class _Recording:
    """The example run: the calls of targets, by target and key, and what was alive around them.

    ``weights`` is of what kind each target's own weights are: a run without data lends it others.
    """

    outside: Outside
    weights: Mapping[str, object]
    calls: dict[tuple[str, object], _Call] = field(default_factory=dict)

    def note(self, target: Target, arguments: Arguments) -> _Call:
        """One more call. What is kept of its arguments keeps no tensor of the run alive."""
        live = self.outside.live_bytes
        key = (target.name, arguments.key)
        if key not in self.calls:
            with _disable_current_modes():
                args, kwargs = without_data((arguments.args, arguments.kwargs))
            held = Arguments(args, kwargs, (), arguments.key)
            self.calls[key] = _Call(target, held, live)
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
class _Scene:
    """All that runs for one set of the model's input shapes."""

    distinct: tuple[Distinct, ...]
    ready: dict[tuple[str, object], Ready]
    outside_peak_bytes: int
    eager_peak_bytes: int | None
    limit_bytes: int | None

    @property
    def peak_bytes(self) -> int:
        inside = (one.outside_bytes + one.chosen.peak_bytes for one in self.distinct)
        return max(self.outside_peak_bytes, *inside)


class _CannotCapture(BaseException):
    """A target cannot be captured; another choice of targets may do. (Models, in whose runs it is
    raised, may catch what is an Exception.)"""

    def __init__(self, target: Target, error: CaptureError) -> None:
        super().__init__(str(error))
        self.target = target
        self.error = error


class AppliedTargets:
    """A model whose targeted submodules run plans. Made by :func:`tuner.apply` with ``targets``.

    Called like the model, and so may the model itself be, as long as this is in force: until
    :meth:`remove`, or the end of a ``with`` block. Runs without gradients. Any sizes may be passed;
    the first call at new ones chooses plans. Hooks on targets run as before (an example run is a
    call too, where the model carries hooks).

    Raises:
        ConfigError: the targets name nothing that is called, or run plans already.
        CaptureError: a target cannot be captured (with ``"auto"`` it is left unchunked instead, and
            :meth:`explain` says so).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        targets: str | Sequence[str],
        entries: Mapping[str, GraphEntry],
        budget: Budget | None,
    ) -> None:
        self.model = model
        self._entries = entries
        self._budget = budget
        self._auto = targets == AUTO
        names = auto_targets(model) if self._auto else match_targets(model, targets)
        if not names:
            raise CaptureError(f"targets='auto' found nothing to capture: {suggestion(model)}")
        if model.training:
            raise CaptureError("the model is in training mode; call model.eval() first")
        self._lock = threading.RLock()
        self._local = threading.local()
        self._workshop = Workshop()
        self._choices: dict[tuple[GraphKey, Budget | None], Chosen] = {}
        self._scenes: dict[object, _Scene] = {}
        self._last: _Scene | None = None
        self._unchunked: dict[str, str] = {}
        self._targets: dict[str, Target] = {}
        self._root = Replaced("", model, self._run_model)
        try:
            self._replace(names)
        except BaseException:
            self.remove()
            raise

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Raises :class:`BudgetError` where new sizes cannot meet the budget."""
        with torch.no_grad():
            return self.model(*args, **kwargs)

    def __enter__(self) -> AppliedTargets:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Choose the plans and generate the code for these inputs of the model."""
        key = self._key(args, kwargs)
        if key not in self._scenes:
            self._prepare(key, args, kwargs)
        self._last = self._scenes[key]

    def remove(self) -> None:
        """Put the original forwards back. The model is then as it was; may be called again."""
        for target in self._targets.values():
            target.replaced.remove()
        self._root.remove()

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the submodules that run plans."""
        return tuple(self._targets)

    @property
    def captures(self) -> int:
        """How many captures were made in all."""
        return sum(family.captures for family in set(self._families.values()))

    @property
    def distinct(self) -> tuple[Distinct, ...]:
        """What runs at the last call's sizes, one for each distinct block."""
        return self._current.distinct

    @property
    def plan(self) -> Mapping[str, Plan]:
        """The plan of each distinct block at the last call's sizes, by its first target's name, and
        its shapes where that name stands twice."""
        found: dict[str, Plan] = {}
        for one in self._current.distinct:
            name = one.names[0]
            found[f"{name} {one.shapes}" if name in found else name] = one.chosen.plan
        return MappingProxyType(found)

    @property
    def predicted_peak_bytes(self) -> int:
        """The whole model's predicted activation peak at the last call's sizes."""
        return self._current.peak_bytes

    @property
    def code(self) -> str:
        """The generated Python of each distinct block at the last call's sizes."""
        return "\n\n\n".join(
            f"# {one.names[0]} ({len(one.names)} targets)\n{module_code(one.ready.module)}"
            for one in self._current.distinct
        )

    def explain(self) -> str:
        """The plans of the last call's sizes as a person reads them."""
        scene = self._current
        eager = "unknown" if scene.eager_peak_bytes is None else mib(scene.eager_peak_bytes)
        limit = "" if scene.limit_bytes is None else f", budget {mib(scene.limit_bytes)}"
        lines = [
            f"{len(self._targets)} targets of {type(self.model).__name__}, "
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
        called = {name for one in scene.distinct for name in one.names}
        idle = [name for name in self._targets if name not in called]
        if idle:
            lines.append(f"\nnot called at these sizes: {', '.join(idle)}")
        for name, reason in self._unchunked.items():
            lines.append(f"\nleft unchunked: {name}: {reason}")
        return "\n".join(lines)

    @property
    def _current(self) -> _Scene:
        assert self._last is not None, "apply() prepares the example inputs"
        return self._last

    def _replace(self, names: Sequence[str]) -> None:
        """Make these the targets, beside those that are."""
        for name in names:
            module = self.model.get_submodule(name)
            target: list[Target] = []

            def run(
                args: tuple[Any, ...], kwargs: dict[str, Any], own: list[Target] = target
            ) -> Any:
                return self._run_target(own[0], args, kwargs)

            target.append(Target(name, Replaced(name, module, run)))
            self._targets[name] = target[0]
        self._families = families(tuple(self._targets.values()))

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """Whatever may change what targets are called with."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        signature = tuple(
            (tuple(leaf.shape), leaf.dtype, leaf.device)
            if isinstance(leaf, torch.Tensor)
            else (type(leaf), leaf if type(leaf).__hash__ is not None else id(leaf))
            for leaf in leaves
        )
        weight = next(self.model.parameters(), None)
        weights = None if weight is None else (weight.dtype, weight.device)
        return signature, spec, autocast_state(), weights

    def _is_traced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether somebody else looks at the model, without data: that is shown the original."""
        if torch.compiler.is_exporting():
            return True
        weight = next(self.model.parameters(), None)
        return any(
            isinstance(leaf, torch.Tensor) and (leaf.is_meta or isinstance(leaf, FakeTensor))
            for leaf in (weight, *pytree.tree_leaves((args, kwargs)))
        )

    @contextlib.contextmanager
    def _handling(self, handler: Handler) -> Iterator[None]:
        """Calls of targets in this thread go to a handler in the meantime."""
        before = getattr(self._local, "handler", None)
        self._local.handler = handler
        try:
            yield
        finally:
            self._local.handler = before

    def _run_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if getattr(self._local, "handler", None) is not None:  # a run of ours, or a recursive model
            return self._root.original(*args, **kwargs)
        if self._is_traced(args, kwargs):
            with self._handling(lambda target, own, named: target.replaced.original(*own, **named)):
                return self._root.original(*args, **kwargs)
        if self.model.training:
            raise CaptureError(
                "the model runs plans, which have no gradients, but is in training mode; call "
                "remove() to train it, or eval()"
            )
        key = self._key(args, kwargs)
        scene = self._scenes.get(key)
        if scene is None:
            output = self._prepare(key, args, kwargs)
            scene = self._scenes[key]
            if output is not None:
                self._last = scene
                return output[0]
        self._last = scene
        with torch.no_grad(), self._handling(partial(self._run_ready, scene)):
            return self._root.original(*args, **kwargs)

    def _run_target(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler: Handler | None = getattr(self._local, "handler", None)
        if handler is None:  # called from outside of a call of the model
            handler = partial(self._run_ready, self._current)
        return handler(target, args, kwargs)

    def _run_ready(
        self, scene: _Scene, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if target.module.training:
            raise CaptureError(f"target {target.name!r} is in training mode; call model.eval()")
        try:
            target.replaced.check_hooks()
            arguments = read_arguments(target, args, kwargs)
        except CaptureError as error:
            raise CaptureError(f"target {target.name!r}: {error}") from error
        key = (target.name, arguments.key)
        if key not in scene.ready:
            self._prepare_late(scene, target, arguments)
        return scene.ready[key].run(arguments.tensors)

    # -- preparing: an example run, then a choice for each distinct block ----------------------

    def _prepare(
        self, key: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any] | None:
        """Choose plans for the model's inputs; the output, where the example run gave one."""
        with self._lock, torch.no_grad():
            while True:
                try:
                    recording, eager, output = self._record(args, kwargs)
                    scene = self._choose_all(recording, eager)
                    break
                except _CannotCapture as failure:
                    self._give_up(failure)
            self._workshop.forget()
            while len(self._scenes) >= MOST_SHAPES:
                self._scenes.pop(next(iter(self._scenes)))
                self._workshop.clear()
                self._choices.clear()
            self._scenes[key] = scene
            return output

    def _give_up(self, failure: _CannotCapture) -> None:
        """With ``"auto"``, go on with the parts of what cannot be captured."""
        name = failure.target.name
        if not self._auto:
            raise CaptureError(f"target {name!r}: {failure.error}") from failure.error
        family = self._families[name]
        log.info("autochunk: target %r is left out: %s", name, failure.error)
        for member in family.members:
            member.replaced.remove()
            del self._targets[member.name]
            self._unchunked[member.name] = str(failure.error)
        # (all families anew: captures of those that stay are made again, which is rare)
        self._replace([part for member in family.members
                       for part in parts_of(self.model, member.name)])  # fmt: skip
        if not self._targets:
            raise CaptureError(
                f"targets='auto' found nothing that can be captured; the last reason, for "
                f"{name!r}: {failure.error}"
            ) from failure.error

    def _record(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[_Recording, int | None, tuple[Any] | None]:
        """The example run; the eager model's peak where that is known; the output of a real run."""
        weights = {name: weights_state(target) for name, target in self._targets.items()}
        if not any(autocast_state()) and not any(map(has_hooks, self.model.modules())):
            recording = _Recording(Outside(), weights)
            try:
                with unchanged(self.model), self._handling(partial(self._without_data, recording)):
                    recording.outside.without_data(self.model, args, kwargs)
                return recording, recording.outside.peak_bytes, None
            except CaptureError as error:
                log.info("autochunk: %s; the example run is a real one", error)
        recording = _Recording(Outside(), weights)
        with self._handling(partial(self._with_data, recording)):
            output = recording.outside.with_data(
                self.model, lambda: self._root.original(*args, **kwargs), (args, kwargs)
            )
        return recording, None, (output,)

    def _without_data(
        self, recording: _Recording, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        recording.note(target, self._read(target, args, kwargs, recording.weights[target.name]))
        return recording.outside.inside(lambda: target.replaced.original(*args, **kwargs))

    def _with_data(
        self, recording: _Recording, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        arguments = self._read(target, args, kwargs)
        call = recording.note(target, arguments)

        def run() -> Any:
            if call.located is None:
                call.located = self._locate(target, args, kwargs)
            budget = None if self._budget is None and not self._entries else Budget()
            chosen = self._choose(call.located, budget, target, arguments)
            return self._workshop.ready(target, call.located, chosen).run(arguments.tensors)

        outside = recording.outside
        return outside.inside(lambda: outside.uncounted(run))

    def inputs_of(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See :func:`first_inputs`."""

        def handle(target: Target, own: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if target.name == name:
                raise _Found((own, named))
            return self._run_lowest(target, own, named)

        try:
            with torch.no_grad(), self._handling(handle):
                self._root.original(*args, **kwargs)
        except _Found as found:
            return found.inputs
        raise CaptureError(f"target {name!r} is not called in a run of the model")

    def _run_lowest(
        self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A target's real call by its lowest plan, or as it is where it cannot be captured."""
        try:
            arguments = self._read(target, args, kwargs)
            located = self._locate(target, args, kwargs)
        except _CannotCapture:
            return target.replaced.original(*args, **kwargs)
        chosen = self._choose(located, Budget(), target, arguments)
        return self._workshop.ready(target, located, chosen).run(arguments.tensors)

    def _read(
        self,
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        weights: object = None,
    ) -> Arguments:
        try:
            return read_arguments(target, args, kwargs, weights)
        except CaptureError as error:
            raise _CannotCapture(target, error) from error

    def _locate(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Located:
        try:
            return self._families[target.name].locate(target, args, kwargs)
        except CaptureError as error:
            raise _CannotCapture(target, error) from error

    def _choose_all(self, recording: _Recording, eager: int | None) -> _Scene:
        """A plan for each distinct block, within what the budget leaves it."""
        calls = list(recording.calls.values())
        if not calls:
            raise CaptureError(
                "no target was called in the example run; is what was named called by another "
                f"method than forward? {suggestion(self.model)}"
            )
        for call in calls:
            if call.located is None:
                device = _device_of(call.target.module, self.model)
                given = real_like((call.arguments.args, call.arguments.kwargs), device)
                call.located = self._locate(call.target, *given)
        groups: dict[GraphKey, list[_Call]] = {}
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
                made = self._workshop.ready(call.target, call.located, own)
                ready[call.target.name, call.arguments.key] = made
            first = group[0]
            assert first.located is not None
            distinct.append(
                Distinct(
                    tuple(dict.fromkeys(call.target.name for call in group)),
                    describe_shapes((first.arguments.args, first.arguments.kwargs)),
                    bytes_outside,
                    self._workshop.analysis(first.located),
                    own,
                    ready[first.target.name, first.arguments.key],
                )
            )
        return _Scene(tuple(distinct), ready, beyond, eager, limit)

    def _within(
        self, calls: Sequence[_Call], outside: Sequence[int], beyond: int, limit: int | None
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

    def _chosen(self, call: _Call, budget: Budget | None) -> Chosen:
        assert call.located is not None
        return self._choose(call.located, budget, call.target, call.arguments)

    def _choose(
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
        analysis = self._workshop.analysis(located)
        entry = self._entries.get(analysis.graph.fingerprint)
        if entry is None and self._entries:
            log.warning(
                "autochunk: the plan database has nothing for target %r as called (graph %s); "
                "choosing analytically",
                target.name, analysis.graph.fingerprint,
            )  # fmt: skip
        if budget is None and entry is not None:
            budget = entry.budget
        eager: int | None = None
        if budget is not None and budget.is_fraction:
            eager = entry.eager_peak(located.shapes) if entry is not None else None
            if eager is None:
                eager = self._eager_of(target, analysis, arguments)
        return choose(analysis, entry, located.shapes, budget, eager)

    def _eager_of(self, target: Target, analysis: Analysis, arguments: Arguments) -> int:
        with target.replaced.bare() as module, unchanged(module):
            return eager_or_captured_peak(module, analysis, arguments.args, arguments.kwargs)

    def _eager_peak(
        self, recording: _Recording, firsts: Sequence[_Call], outside: Sequence[int]
    ) -> int:
        """The eager model's peak where it cannot run without data, put together from its parts."""
        inside = []
        for call, own in zip(firsts, outside, strict=True):
            assert call.located is not None
            analysis = self._workshop.analysis(call.located)
            inside.append(own + self._eager_of(call.target, analysis, call.arguments))
        return max(recording.outside.outside_peak_bytes, *inside)

    def _prepare_late(self, scene: _Scene, target: Target, arguments: Arguments) -> None:
        """A call that the example run at these sizes did not make: what the model does depends on
        its data, or the target was called from elsewhere."""
        with self._lock:
            try:
                located = self._locate(target, arguments.args, arguments.kwargs)
            except _CannotCapture as failure:
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
            chosen = self._choose(located, budget, target, arguments)
            scene.ready[target.name, arguments.key] = self._workshop.ready(
                target, located, chosen
            )
            self._workshop.forget()


class _Found(BaseException):
    """Ends a run whose rest is of no interest; models may catch what is an Exception."""

    def __init__(self, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        super().__init__()
        self.inputs = inputs


def distinct_targets(
    model: torch.nn.Module,
    targets: str | Sequence[str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[str, ...]:
    """Of the targets that the model calls with these inputs, the first of each distinct graph.

    Raises:
        ConfigError, CaptureError: as :class:`AppliedTargets`.
    """
    applied = AppliedTargets(model, targets, {}, None)
    with applied:
        applied.prepare(*args, **dict(kwargs))
        graphs: dict[str, str] = {}
        for one in applied.distinct:
            graphs.setdefault(one.analysis.graph.fingerprint, one.names[0])
    return tuple(dict.fromkeys(graphs.values()))


def first_inputs(
    model: torch.nn.Module,
    targets: str | Sequence[str],
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a target's first call in a real run of the model, which ends there. Targets
    before it run their lowest plans, so that the run needs little memory.

    Raises:
        CaptureError: the target is not called.
    """
    names = auto_targets(model) if targets == AUTO else match_targets(model, targets)
    apart = [one for one in names if not f"{name}.".startswith(f"{one}.")
             and not one.startswith(f"{name}.")]  # fmt: skip
    with AppliedTargets(model, (*apart, name), {}, Budget()) as applied:
        return applied.inputs_of(name, args, kwargs)


def _left(limit: int, outside: int) -> Budget:
    """What a limit leaves to a target."""
    return Budget(absolute_bytes=max(limit - outside, 1))


def _device_of(target: torch.nn.Module, model: torch.nn.Module) -> torch.device:
    for module in (target, model):
        weight = next(module.parameters(), None)
        if weight is not None:
            return weight.device
    return torch.device("cpu")


__all__ = ["AppliedTargets", "Distinct"]
