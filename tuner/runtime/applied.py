"""A model with a plan: called like the model, and in all else the model itself.

Sizes decide the plan, so that work happens in layers, each done once and kept: a capture per
pattern of sizes that a capture can serve, an analysis and a rewritten module per set of input
shapes, and nothing but a dictionary look-up for shapes seen before.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch.utils import _pytree as pytree

from search_space.budget import Budget
from search_space.capture import Capture
from search_space.errors import BudgetError, CaptureError, PlanError
from search_space.plan import Plan
from search_space.probe import Prober
from tuner.measure.backends import backend_for
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Captures, Located
from tuner.runtime.choose import (
    Chosen,
    choose_for,
    eager_or_captured_peak,
    leaving_room,
    rungs,
    using_room,
)
from tuner.runtime.choose_form import Form, quickest
from tuner.runtime.compiled import Compiler, CompileReport
from tuner.runtime.compiled_run import apart, explain_compiled, known_peak, try_compiled
from tuner.runtime.explain import explain_plan, module_code
from tuner.runtime.free_memory import free_memory_of
from tuner.runtime.gate import GATE
from tuner.runtime.generate import generate, with_weights_of
from tuner.runtime.kernels import Forms
from tuner.runtime.lookup import device_of
from tuner.runtime.replaced import unchanged
from tuner.runtime.serving import Elastic, Pinned, Prepared, Serving
from tuner.runtime.signature import Signature, Witness, dense, signature
from tuner.runtime.wish import Wish

MOST_SHAPES = 64
"""Sets of input shapes whose generated code is kept; the oldest goes first."""

_SHARED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")

_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


class Applied(torch.nn.Module):
    """A model with a plan: called like the model, with the same weights and output structure.

    Made by :func:`tuner.apply`. Runs without gradients. Any length may be passed; the first call at
    new sizes chooses a plan and generates its code.

    Its weights, buffers and submodules *are* the model's, under the same names: ``state_dict``,
    ``to``, ``parameters`` and attributes such as ``config`` answer as the model does. A copy has
    weights of its own. Calls may come from several threads.
    """

    def __init__(
        self, model: torch.nn.Module, wish: Wish, captures: Captures | None = None
    ) -> None:
        super().__init__()
        state = vars(self)
        state["_original"] = model  # (past the registration of submodules, which renames weights)
        state.update((name, vars(model)[name]) for name in _SHARED)
        self.training = model.training
        self._wish = wish
        self._captures = captures or Captures(model)
        self._forms = Forms(wish.kernels, lambda graph: wish.plans.judged(graph) is not None)
        self._compiler = None if wish.compile is False else Compiler(wish.compile)
        self._witness = Witness(model)
        self._serving: dict[object, Serving] = {}
        self._last: Serving | None = None
        self._probe = Prober()
        self._example_bytes = 0  # what the plan of the first inputs takes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Raises:
            BudgetError: new sizes cannot meet the budget, nor do they fit what the plan of the
                example inputs takes.
            MemoryShortage: with ``memory="free"``, no plan at all fits.
        """
        if torch.compiler.is_compiling():
            # inside a user's torch.compile the loops would be unrolled and fused across passes
            return apart(self._call, args, kwargs)
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = signature(args, kwargs)
        serving = self._served(call, args, kwargs)
        with torch.no_grad():
            if call.autocast:
                # casts that autocast asks for were captured: it must not act twice
                device = serving.current.analysis.graph.device
                with torch.autocast(device, enabled=False):
                    flat = serving.run(call.tensors)
            else:
                flat = serving.run(call.tensors)
        return pytree.tree_unflatten(flat, serving.current.captured.out_spec)

    def prepare(self, *args: Any, **kwargs: Any) -> Prepared:
        """Choose the plan and generate the code for these inputs, without running it."""
        return self._served(signature(args, kwargs), args, kwargs).current

    @property
    def plan(self) -> Plan:
        """The plan of the last call (at first, of the example inputs)."""
        return self._current.chosen.plan

    @property
    def predicted_peak_bytes(self) -> int:
        """The memory model's peak for the last call's sizes; of compiled code, which no model
        knows, the peak measured when it was tried."""
        return known_peak(self._current.chosen.peak_bytes, self._current.compiled)

    @property
    def compile_report(self) -> CompileReport | None:
        """What compiling came to so far; None where it is turned off."""
        return None if self._compiler is None else self._compiler.report

    @property
    def code(self) -> str:
        """The generated Python of the last call's sizes, loops and bodies included."""
        return module_code(self._current.module)

    def explain(self) -> str:
        """The plan of the last call's sizes as a person reads it."""
        current = self._current
        note = "" if self._last is None else self._last.note()
        lines = [explain_plan(current.analysis, current.chosen), note]
        if self._compiler is not None:
            lines.extend(explain_compiled(self._compiler, current.compiled))
        return "\n".join(filter(None, lines))

    @property
    def _current(self) -> Prepared:
        if self._last is None:
            raise PlanError("no plan was chosen since it was loaded: call it, or prepare(), first")
        return self._last.current

    def _served(self, call: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Serving:
        """What serves a call: found, or made."""
        key = (call.key, self._witness.state())
        try:
            serving = self._serving.get(key)
        except TypeError as error:
            raise CaptureError(
                f"an argument of the call cannot be compared ({error}), so that nothing can be "
                "kept for calls like it; pass tensors and plain values"
            ) from error
        if serving is None or self._original.training:
            given = dense(args, kwargs) if call.copied else (args, kwargs)
            serving = self._prepare(key, *given)
        self._last = serving
        return serving

    def _prepare(self, key: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Serving:
        if self._original.training:
            raise CaptureError("the model is in training mode; call model.eval() first")
        # (tensors made in inference mode cannot be traced, but what is traced may run there)
        with GATE.preparing(), torch.inference_mode(False):
            known = self._serving.get(key)
            if known is not None:  # another thread was here first
                return known
            forms = [
                Form(one, Analysis.unmeasured(
                    one.captured.graph, one.bindings, self._probe,
                    compiled=bool(self._wish.compile),
                ))
                for one in self._located(args, kwargs)
            ]  # fmt: skip
            serving = self._serve(forms, args, kwargs)
            for form in forms:
                form.analysis.memory.forget()
            while len(self._serving) >= MOST_SHAPES:
                self._serving.pop(next(iter(self._serving)))
            self._serving[key] = serving
            return serving

    def _located(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Located, ...]:
        """The capture for a call, with the kernels that the plan or the user asks for; where that
        is left open, in each form that may serve it within a budget, the preferred one first."""
        wish = self._wish
        if wish.fixed is not None:
            return (self._captures.rewritten(args, kwargs, wish.fixed.rewrites),)
        located = self._captures.locate(args, kwargs)
        forms = self._forms.of(located.captured, located.bindings)
        if wish.budget is None or wish.budget.is_minimum:  # what takes less memory is preferred
            forms = forms[:1]
        return tuple(replace(located, captured=one) for one in forms)

    def _serve(
        self, forms: Sequence[Form], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Serving:
        wish = self._wish

        @functools.cache
        def eager_peak() -> int:
            with GATE.tracing(), unchanged(self._original):
                return eager_or_captured_peak(self._original, first.analysis, args, kwargs)

        first, *others = forms
        if wish.memory is not None:
            device = device_of(self._original)
            entry = wish.plans.on(device).entry(first.analysis.graph.fingerprint)
            ladder = rungs(first.analysis, entry, first.located.shapes)
            free = free_memory_of(device) if wish.memory == "free" else wish.memory
            # (of the inputs nothing is kept, which are the first ones of these sizes alone)
            prepare = functools.partial(self._generated, first)
            return Elastic(ladder, prepare, free, backend_for(device))
        if wish.fixed is not None:
            form, chosen = first, _given(wish.fixed, first.analysis)
        else:
            form, chosen = quickest(first, self._choose(first, eager_peak), others)
            self._example_bytes = self._example_bytes or chosen.peak_bytes
        if self._compiler is None or (wish.compile is None and not chosen.plan.compiled):
            return Pinned(self._generated(form, chosen))
        captured, tensors = form.located.captured, signature(args, kwargs).tensors
        return Pinned(
            self._compiled(captured, form.analysis, chosen, self._compiler, tensors)
        )

    def _generated(self, form: Form, chosen: Chosen) -> Prepared:
        """A plan's code, uncompiled."""
        captured, analysis = form.located.captured, form.analysis
        module = generate(analysis, chosen.plan, self._original, captured.constants)
        return Prepared(captured, analysis, chosen, module)

    def _compiled(
        self,
        captured: Capture,
        analysis: Analysis,
        chosen: Chosen,
        compiler: Compiler,
        tensors: Sequence[torch.Tensor],
    ) -> Prepared:
        """A plan's code, compiled as far as it keeps its limit. Where not all does, and a lower
        plan keeps it with all compiled, it is that plan's; where compiling leaves much of the limit
        over, and a faster plan keeps it too, that one's."""

        options = compiler.options.of(chosen.plan)

        def tried(own: Chosen) -> tuple[Prepared, int | None]:
            module = generate(analysis, own.plan, self._original, captured.constants)
            found = try_compiled(module, compiler, tensors, chosen.limit_bytes, options)
            if found.tried is not None:
                module = found.tried.module
            return Prepared(captured, analysis, own, module, found.tried), found.asked_bytes

        first, asked_bytes = tried(chosen)
        if asked_bytes is None or chosen.limit_bytes is None or compiler.report.failure:
            return first
        if first.is_compiled(options):
            other = using_room(analysis, chosen, asked_bytes)
        else:
            other = leaving_room(analysis, chosen, asked_bytes - chosen.limit_bytes)
        if other is None:
            return first
        second, _ = tried(other)
        return second if second.is_compiled(options) else first

    def _choose(self, form: Form, eager_peak: Callable[[], int]) -> Chosen:
        """A call's plan. A share of the little that a short input needs may be out of reach; it
        may then take what the example inputs take, which the user has agreed to."""
        plans = self._wish.plans.on(device_of(self._original))
        analysis, shapes = form.analysis, form.located.shapes
        try:
            return choose_for(plans, analysis, shapes, self._wish.budget, eager_peak)
        except BudgetError as error:
            if not self._example_bytes:
                raise
            allowed = Budget(absolute_bytes=self._example_bytes)
            try:
                return choose_for(plans, analysis, shapes, allowed, eager_peak)
            except BudgetError:
                raise error from None

    # -- in all else the model itself ------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            model = vars(self).get("_original")
            if model is None or name.startswith("__"):
                raise
            if name == "model" and not hasattr(model, name):
                return model  # (many models have a part of that name)
            return getattr(model, name)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        with GATE.using():
            return self._original.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        with GATE.using():
            return self._original.load_state_dict(state_dict, *args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """The model's. In training mode calls are refused."""
        self._original.train(mode)
        self.training = mode
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # (what moves and casts modules; plans are chosen anew for other devices and dtypes)
        with GATE.using():
            self._original._apply(fn, recurse)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Applied:
        with GATE.preparing():
            model = copy.deepcopy(self._original, memo)
            made = Applied(model, self._wish, self._captures.of(model))
            memo[id(self)] = made
            vars(made).update(copy.deepcopy(self._state(), memo))

            def move(prepared: Prepared) -> Prepared:
                return replace(prepared, module=with_weights_of(prepared.module, model))

            for key, serving in self._serving.items():
                made._serving[key] = serving.moved(move)
                if serving is self._last:
                    made._last = made._serving[key]
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        # code is generated anew where it is wanted
        return Applied, (self._original, self._wish), self._state()

    def _state(self) -> dict[str, Any]:
        """What a copy has of its own beside weights: hooks on this very module, and what short
        inputs may take."""
        kept = {name: value for name, value in vars(self).items() if name in _HOOKS}
        return {**kept, "_example_bytes": self._example_bytes}


def _given(plan: Plan, analysis: Analysis) -> Chosen:
    """A plan as the user gave it."""
    if analysis.graph.fingerprint != plan.fingerprint:
        raise PlanError(
            f"the plan belongs to graph {plan.fingerprint}, the model as called is "
            f"{analysis.graph.fingerprint}; tune the model as it is called"
        )
    return Chosen(plan, "given", analysis.memory.profile(plan.choices).peak_bytes)
