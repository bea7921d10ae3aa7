"""Submodules captured in place of the whole model, each running its own plan.

``apply(model, args, targets="blocks.*")`` replaces the forwards of the named submodules; all else
runs as it was. The example run gives their inputs. It is a run without data where the model allows
it, so that a model that does not fit unchunked can be applied; else a real one, in which every
target already runs its lowest plan. Targets that are built alike share captures, analyses and code,
each with its own weights.

:mod:`tuner.runtime.scene` chooses the plans.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from search_space.budget import Budget
from search_space.errors import CaptureError
from search_space.plan import Plan
from search_space.rewrites import AS_CAPTURED, Kernels
from tuner.runtime.blocks import Target, families, read_arguments, weights_state
from tuner.runtime.compiled import CompileReport
from tuner.runtime.explain import module_code
from tuner.runtime.find_targets import AUTO, auto_targets, match_targets, parts_of, suggestion
from tuner.runtime.gate import GATE
from tuner.runtime.lookup import Plans
from tuner.runtime.outside import Outside
from tuner.runtime.replaced import Replaced, has_hooks, unchanged
from tuner.runtime.scene import (
    CannotCapture,
    Distinct,
    Recording,
    Scene,
    SceneMaker,
    explain_scene,
)
from tuner.runtime.signature import autocast_state
from tuner.runtime.wish import Compiling

log = logging.getLogger("autochunk")

MOST_SHAPES = 64
"""Sets of the model's input shapes whose plans are kept; the oldest goes first."""

Handler = Callable[[Target, tuple[Any, ...], dict[str, Any]], Any]


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
        plans: Plans,
        budget: Budget | None,
        kernels: Kernels | None = None,
        compiling: Compiling = False,
    ) -> None:
        self.model = model
        self._maker = SceneMaker(model, plans, budget, kernels or AS_CAPTURED, compiling)
        self._auto = targets == AUTO
        names = auto_targets(model) if self._auto else match_targets(model, targets)
        if not names:
            raise CaptureError(f"targets='auto' found nothing to capture: {suggestion(model)}")
        if model.training:
            raise CaptureError("the model is in training mode; call model.eval() first")
        self._local = threading.local()
        self._scenes: dict[object, Scene] = {}
        self._last: Scene | None = None
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
        with GATE.using():
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
        return sum(family.captures for family in set(self._maker.families.values()))

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
        lines = explain_scene(scene, self.model, len(self._targets), self._maker.workshop)
        called = {name for one in scene.distinct for name in one.names}
        idle = [name for name in self._targets if name not in called]
        if idle:
            lines.append(f"\nnot called at these sizes: {', '.join(idle)}")
        for name, reason in self._unchunked.items():
            lines.append(f"\nleft unchunked: {name}: {reason}")
        return "\n".join(lines)

    @property
    def compile_report(self) -> CompileReport | None:
        """What compiling came to so far; None where it is turned off."""
        compiler = self._maker.workshop.compiler
        return None if compiler is None else compiler.report

    @property
    def _current(self) -> Scene:
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
        self._maker.families = families(tuple(self._targets.values()))

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
        with GATE.using():  # (weights outside of the targets are read all along)
            return self._run_traced_or_not(args, kwargs)

    def _run_traced_or_not(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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
        with GATE.using():
            return handler(target, args, kwargs)

    def _run_ready(
        self, scene: Scene, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
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
            with GATE.preparing():
                self._maker.prepare_late(scene, target, arguments)
        return scene.ready[key].run(arguments.tensors)

    # -- preparing: an example run, then a choice for each distinct block ----------------------

    def _prepare(
        self, key: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any] | None:
        """Choose plans for the model's inputs; the output, where the example run gave one."""
        with GATE.preparing(), torch.no_grad():
            while True:
                try:
                    recording, eager, output = self._record(args, kwargs)
                    scene = self._maker.choose_all(recording, eager)
                    break
                except CannotCapture as failure:
                    self._give_up(failure)
            self._maker.workshop.forget()
            while len(self._scenes) >= MOST_SHAPES:
                self._scenes.pop(next(iter(self._scenes)))
                self._maker.forget()
            self._scenes[key] = scene
            return output

    def _give_up(self, failure: CannotCapture) -> None:
        """With ``"auto"``, go on with the parts of what cannot be captured."""
        name = failure.target.name
        if not self._auto:
            raise CaptureError(f"target {name!r}: {failure.error}") from failure.error
        family = self._maker.families[name]
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
    ) -> tuple[Recording, int | None, tuple[Any] | None]:
        """The example run; the eager model's peak where that is known; the output of a real run."""
        weights = {name: weights_state(target) for name, target in self._targets.items()}
        if not any(autocast_state()) and not any(map(has_hooks, self.model.modules())):
            recording = Recording(Outside(), weights)
            try:
                handler = partial(self._without_data, recording)
                with GATE.tracing(), unchanged(self.model), self._handling(handler):
                    recording.outside.without_data(self.model, args, kwargs)
                return recording, recording.outside.peak_bytes, None
            except CaptureError as error:
                log.info("autochunk: %s; the example run is a real one", error)
        recording = Recording(Outside(), weights)
        with self._handling(partial(self._with_data, recording)):
            output = recording.outside.with_data(
                self.model, lambda: self._root.original(*args, **kwargs), (args, kwargs)
            )
        return recording, None, (output,)

    def _without_data(
        self, recording: Recording, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        weights = recording.weights[target.name]
        recording.note(target, self._maker.read(target, args, kwargs, weights))
        return recording.outside.inside(lambda: target.replaced.original(*args, **kwargs))

    def _with_data(
        self, recording: Recording, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        arguments = self._maker.read(target, args, kwargs)
        call = recording.note(target, arguments)

        def run() -> Any:
            if call.located is None:
                call.located = self._maker.locate(target, args, kwargs)
            return self._maker.run_lowest(target, arguments, call.located)

        outside = recording.outside
        return outside.inside(lambda: outside.uncounted(run))

    def inputs_of(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See :func:`tuner.runtime.distinct.first_inputs`."""

        def handle(target: Target, own: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if target.name == name:
                raise Found((own, named))
            return self._run_lowest(target, own, named)

        try:
            with torch.no_grad(), self._handling(handle):
                self._root.original(*args, **kwargs)
        except Found as found:
            return found.inputs
        raise CaptureError(f"target {name!r} is not called in a run of the model")

    def _run_lowest(
        self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A target's real call by its lowest plan, or as it is where it cannot be captured."""
        try:
            arguments = self._maker.read(target, args, kwargs)
            located = self._maker.locate(target, args, kwargs)
        except CannotCapture:
            return target.replaced.original(*args, **kwargs)
        return self._maker.run_lowest(target, arguments, located)


class Found(BaseException):
    """Ends a run whose rest is of no interest; models may catch what is an Exception."""

    def __init__(self, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        super().__init__()
        self.inputs = inputs


__all__ = ["AppliedTargets", "Distinct"]
