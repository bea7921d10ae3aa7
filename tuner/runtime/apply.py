"""``apply``: a model and a budget become a callable that runs the plan.

Sizes decide the plan, so that work happens in layers, each done once and kept: a capture per
pattern of sizes that a capture can serve, an analysis and a rewritten module per set of input
shapes, and nothing but a dictionary look-up for shapes seen before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch.utils import _pytree as pytree

from cost_models.ceilings import default_ceilings
from search_space.budget import Budget, parse_budget
from search_space.capture import Capture
from search_space.errors import CaptureError, PlanError
from search_space.plan import Plan
from search_space.probe import Prober
from tuner.database import GraphEntry, ModelFile, read_database, slug
from tuner.environment import device_name
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Captures, Shapes, autocast_state, layout
from tuner.runtime.check_arguments import check_arguments
from tuner.runtime.choose import Chosen, choose, eager_or_captured_peak
from tuner.runtime.explain import explain_plan, module_code
from tuner.runtime.find_targets import suggestion
from tuner.runtime.generate import generate
from tuner.runtime.replaced import unchanged
from tuner.runtime.targets import AppliedTargets

log = logging.getLogger("autochunk")

MOST_SHAPES = 64
"""Sets of input shapes whose generated code is kept; the oldest goes first."""


@dataclass(frozen=True)
class Prepared:
    """What runs for one set of input shapes."""

    captured: Capture
    analysis: Analysis
    chosen: Chosen
    module: torch.fx.GraphModule


class Applied:
    """A model with a plan: called like the model, with the same weights and output structure.

    Made by :func:`apply`. Runs without gradients. Any length may be passed; the first call at new
    sizes chooses a plan and generates its code.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        entries: Mapping[str, GraphEntry],
        budget: Budget | None,
        fixed: Plan | None = None,
        captures: Captures | None = None,
    ) -> None:
        self.model = model
        self._entries = entries
        self._budget = budget
        self._fixed = fixed
        self._captures = captures or Captures(model)
        self._prepared: dict[object, Prepared] = {}
        self._last: Prepared | None = None
        self._probe = Prober()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Raises :class:`BudgetError` where new sizes cannot meet the budget."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        key = self._key(leaves, spec)
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepare(key, args, kwargs)
        self._last = prepared
        # casts that autocast asks for were captured: it must not act twice
        device = prepared.analysis.graph.device
        with torch.no_grad(), torch.autocast(device, enabled=False):
            flat = prepared.module(*tensors)
        return pytree.tree_unflatten(list(flat), prepared.captured.out_spec)

    def prepare(self, *args: Any, **kwargs: Any) -> Prepared:
        """Choose the plan and generate the code for these inputs, without running it."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        key = self._key(leaves, spec)
        found = self._prepared.get(key) or self._prepare(key, args, kwargs)
        self._last = found
        return found

    @property
    def plan(self) -> Plan:
        """The plan of the last call (at first, of the example inputs)."""
        return self._current.chosen.plan

    @property
    def predicted_peak_bytes(self) -> int:
        """The memory model's peak for the last call's sizes."""
        return self._current.chosen.peak_bytes

    @property
    def code(self) -> str:
        """The generated Python of the last call's sizes, loops and bodies included."""
        return module_code(self._current.module)

    def explain(self) -> str:
        """The plan of the last call's sizes as a person reads it."""
        current = self._current
        return explain_plan(current.analysis, current.chosen)

    @property
    def _current(self) -> Prepared:
        assert self._last is not None, "apply() prepares the example inputs"
        return self._last

    @staticmethod
    def _key(leaves: list[Any], spec: pytree.TreeSpec) -> object:
        """Whatever may change the captured graph or its sizes."""
        signature = tuple(
            (tuple(leaf.shape), leaf.dtype, leaf.device, layout(leaf))
            if isinstance(leaf, torch.Tensor)
            else (type(leaf), leaf)
            for leaf in leaves
        )
        return signature, spec, autocast_state()

    def _prepare(self, key: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Prepared:
        located = self._captures.locate(args, kwargs)
        captured = located.captured
        analysis = Analysis(
            captured.graph, located.bindings, default_ceilings(captured.graph.device), self._probe
        )
        if self._fixed is not None:
            if captured.graph.fingerprint != self._fixed.fingerprint:
                raise PlanError(
                    f"the plan belongs to graph {self._fixed.fingerprint}, the model as called is "
                    f"{captured.graph.fingerprint}; tune the model as it is called"
                )
            peak = analysis.memory.profile(self._fixed.choices).peak_bytes
            chosen = Chosen(self._fixed, "given", peak)
        else:
            chosen = self._choose(analysis, located.shapes, args, kwargs)
        module = generate(analysis, chosen.plan, self.model, captured.constants)
        analysis.memory.forget()
        prepared = Prepared(captured, analysis, chosen, module)
        while len(self._prepared) >= MOST_SHAPES:
            self._prepared.pop(next(iter(self._prepared)))
        self._prepared[key] = prepared
        return prepared

    def _choose(
        self,
        analysis: Analysis,
        shapes: Shapes,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Chosen:
        entry = self._entries.get(analysis.graph.fingerprint)
        if entry is None and self._entries:
            log.warning(
                "autochunk: the plan database has nothing for this model as called (graph %s); "
                "choosing analytically. Was it tuned with another dtype, device, attention "
                "implementation or torch version?",
                analysis.graph.fingerprint,
            )
        budget = self._budget
        if budget is None and entry is not None:
            budget = entry.budget
        eager: int | None = None
        if budget is not None and budget.is_fraction:
            eager = entry.eager_peak(shapes) if entry is not None else None
            if eager is None:
                with unchanged(self.model):
                    eager = eager_or_captured_peak(self.model, analysis, args, kwargs)
        return choose(analysis, entry, shapes, budget, eager)


@overload
def apply(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    plans: str | Path | None = None,
    memory_budget: float | int | str | None = None,
    targets: None = None,
) -> Applied: ...


@overload
def apply(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    plans: str | Path | None = None,
    memory_budget: float | int | str | None = None,
    targets: str | Sequence[str],
) -> AppliedTargets: ...


def apply(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    plans: str | Path | None = None,
    memory_budget: float | int | str | None = None,
    targets: str | Sequence[str] | None = None,
) -> Applied | AppliedTargets:
    """The model with its large intermediates computed in chunks.

    Args:
        model: in evaluation mode; its weights are shared, not copied.
        args, kwargs: example inputs, as for a call. Later calls may have other sizes.
        plans: a plan database (a file or a folder). The fastest confirmed plan within the budget
            serves each call; where nothing fits, the choice is analytic, with one log line.
        memory_budget: a fraction of the eager model's activation peak (0.3), bytes (2147483648 or
            "2GiB"), or "min". Without one, a database's own first budget holds. It is the whole
            model's, also with targets: what is alive outside of a target while it runs is taken
            off, and what the parts outside of all targets need cannot be lowered.
        targets: capture these submodules, such as ``"trunk.blocks.*"``, in place of the whole
            model; ``"auto"`` finds them. The model itself then runs their plans, until
            ``remove()`` of what is returned.

    Raises:
        BudgetError: the example inputs cannot meet the budget; names the lowest that can be met.
        CaptureError: the model cannot be captured; names submodules that could be targeted.
        ConfigError: the targets name nothing, or an argument is of the wrong kind.
        DatabaseError: the database is damaged.
    """
    check_arguments(model, args, kwargs)
    budget = None if memory_budget is None else parse_budget(memory_budget)
    files: tuple[ModelFile, ...] = () if plans is None else read_database(Path(plans))
    entries = _by_fingerprint(files, _device_of(model))
    if plans is not None and not entries:
        log.warning("autochunk: the plan database %s is empty; choosing analytically", plans)
    if targets is not None:
        targeted = AppliedTargets(model, targets, entries, budget)
        try:
            targeted.prepare(*args, **dict(kwargs or {}))
        except BaseException:
            targeted.remove()
            raise
        return targeted
    applied = Applied(model, entries, budget)
    try:
        applied.prepare(*args, **dict(kwargs or {}))
    except CaptureError as error:
        raise CaptureError(f"{error}. Of {type(model).__name__}, {suggestion(model)}") from error
    return applied


def _device_of(model: torch.nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return "cpu" if parameter is None else str(parameter.device)


def _by_fingerprint(files: Iterable[ModelFile], device: str) -> dict[str, GraphEntry]:
    """What files say of each graph; those of this very device before those of its like."""
    own = slug(device_name(device))
    found: dict[str, GraphEntry] = {}
    elsewhere: dict[str, str] = {}
    for file in sorted(files, key=lambda file: (slug(file.device) != own, str(file.path))):
        for entry in file.graphs:
            if entry.fingerprint not in found:
                found[entry.fingerprint] = entry
                if slug(file.device) != own:
                    elsewhere[file.device] = file.model
    for other, model in elsewhere.items():
        log.info("autochunk: plans of %s were tuned on %r, not on this device", model, other)
    return found


def apply_plan(
    model: torch.nn.Module,
    plan: Plan,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    captures: Captures | None = None,
) -> Applied:
    """The model with exactly this plan, at every length where it is legal.

    Args:
        captures: those made before of the same model, so that it need not be captured again.

    Raises:
        PlanError: the plan belongs to another graph.
        IllegalRegion: the plan cannot run at these sizes.
    """
    applied = Applied(model, {}, None, plan, captures)
    applied.prepare(*args, **dict(kwargs or {}))
    return applied


__all__ = ["Applied", "AppliedTargets", "Prepared", "apply", "apply_plan"]
