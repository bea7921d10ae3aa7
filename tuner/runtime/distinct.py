"""Targets seen from outside: which are distinct, and what each is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from search_space.budget import Budget
from tuner.runtime.find_targets import AUTO, auto_targets, match_targets
from tuner.runtime.lookup import NOTHING
from tuner.runtime.targets import AppliedTargets


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
    applied = AppliedTargets(model, targets, NOTHING, None)
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
    with AppliedTargets(model, (*apart, name), NOTHING, Budget()) as applied:
        return applied.inputs_of(name, args, kwargs)
