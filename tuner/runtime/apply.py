"""``apply``: a model and a budget become a callable that runs the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch

from search_space.errors import CaptureError, ConfigError
from search_space.plan import Plan
from tuner.compile_options import CompileOptions
from tuner.runtime.applied import Applied
from tuner.runtime.captures import Captures
from tuner.runtime.check_arguments import check_arguments
from tuner.runtime.compiler_start import start_compiler
from tuner.runtime.find_targets import suggestion
from tuner.runtime.lookup import device_of
from tuner.runtime.serving import Prepared
from tuner.runtime.targets import AppliedTargets
from tuner.runtime.wish import Memory, Wish, make_wish, wished_compile


@overload
def apply(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    plans: str | Path | None = None,
    memory_budget: float | int | str | None = None,
    memory: Memory | None = None,
    targets: None = None,
    kernels: str | Mapping[str, str] | None = None,
    compile: bool | Mapping[str, Any] | None = None,
) -> Applied: ...


@overload
def apply(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    plans: str | Path | None = None,
    memory_budget: float | int | str | None = None,
    memory: None = None,
    targets: str | Sequence[str],
    kernels: str | Mapping[str, str] | None = None,
    compile: bool | Mapping[str, Any] | None = None,
) -> AppliedTargets: ...


def apply(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    plans: str | Path | None = None,
    memory_budget: float | int | str | None = None,
    memory: Memory | None = None,
    targets: str | Sequence[str] | None = None,
    kernels: str | Mapping[str, str] | None = None,
    compile: bool | Mapping[str, Any] | None = None,
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
        memory: "free" takes, at each call, the fastest plan that fits the memory free on the
            device at that moment. One that runs out of memory all the same gives way to the next
            lower one, and is not tried again with as little. In place of "free", a function that
            gives the free bytes. Excludes a budget, which pins the choice.
        targets: capture these submodules, such as ``"trunk.blocks.*"``, in place of the whole
            model; ``"auto"`` finds them. The model itself then runs their plans, until
            ``remove()`` of what is returned.
        kernels: ``"keep"`` (the default) runs attention as the model has it, ``"sdpa"`` as fused
            kernels wherever it is written out, ``"auto"`` as it was tuned, else fused, unless the
            other form is predicted to be clearly faster within the budget (with targets, fused).
        compile: True, or a mapping of Inductor's options, compiles what runs between loops and in
            each pass, as far as a measured run keeps the budget; the first call at new sizes then
            runs the model a few times. By default a tuned plan says whether it is compiled.

    Raises:
        BudgetError: the example inputs cannot meet the budget; names the lowest that can be met.
        CaptureError: the model cannot be captured; names submodules that could be targeted.
        ConfigError: the targets name nothing, or an argument is of the wrong kind or excludes
            another.
        DatabaseError: the database is damaged.
    """
    check_arguments(model, args, kwargs)
    if targets is not None and memory is not None:
        raise ConfigError(
            "memory='free' chooses for the whole model, not for targets; give a memory_budget with "
            "targets"
        )
    wish = make_wish(model, plans, memory_budget, memory, kernels, compile)
    if wish.compile:
        start_compiler(device_of(model))
    if targets is not None:
        return _apply_targets(model, targets, wish, args, kwargs)
    applied = Applied(model, wish)
    try:
        applied.prepare(*args, **dict(kwargs or {}))
    except CaptureError as error:
        raise CaptureError(f"{error}. Of {type(model).__name__}, {suggestion(model)}") from error
    return applied


def _apply_targets(
    model: torch.nn.Module,
    targets: str | Sequence[str],
    wish: Wish,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
) -> AppliedTargets:
    targeted = AppliedTargets(model, targets, wish.plans, wish.budget, wish.kernels, wish.compile)
    try:
        targeted.prepare(*args, **dict(kwargs or {}))
    except BaseException:
        targeted.remove()
        raise
    return targeted


def apply_plan(
    model: torch.nn.Module,
    plan: Plan,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    captures: Captures | None = None,
    compile: bool | Mapping[str, Any] | CompileOptions | None = None,
) -> Applied:
    """The model with exactly this plan, at every length where it is legal.

    Args:
        captures: those made before of the same model, so that it need not be captured again.
        compile: as for :func:`apply`.

    Raises:
        PlanError: the plan belongs to another graph.
        IllegalRegion: the plan cannot run at these sizes.
    """
    applied = Applied(model, Wish(fixed=plan, compile=wished_compile(compile)), captures)
    applied.prepare(*args, **dict(kwargs or {}))
    return applied


__all__ = ["Applied", "AppliedTargets", "Prepared", "apply", "apply_plan"]
