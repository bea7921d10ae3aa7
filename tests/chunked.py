"""A model with as much as possible of it in chunks, without a search for what is best."""

from __future__ import annotations

from typing import Any

import torch

from experiments.judge import TOLERANCE, Exact
from search_space.capture import flatten_output
from search_space.probe import Prober
from tuner.runtime.analysis import Analysis
from tuner.runtime.apply import Applied, apply_plan
from tuner.runtime.captures import Captures


def chunked(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], passes: int = 3
) -> Applied:
    """The plan that all region classes decode to, each in about ``passes`` chunks, of which the
    last is ragged where it can be."""
    captures = Captures(model)
    located = captures.locate(args, kwargs)
    graph = located.captured.graph
    space = Analysis.unmeasured(graph, located.bindings, Prober()).space
    plan = space.decode({item.key: max(1, item.extent // passes) for item in space.classes})
    assert plan.choices, "nothing is chunked, so nothing would be tested"
    return apply_plan(model, plan, args, kwargs, captures=captures)


def wrong(found: Any, expected: Any) -> str:
    """How an fp32 model's output differs from its own; empty if it does not: classes, structure,
    dtypes, and values within 1e-5 of each tensor's largest."""
    if type(found) is not type(expected):
        return f"{type(found).__name__} instead of {type(expected).__name__}"
    return Exact(expected, TOLERANCE[torch.float32])(found).reason


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in any structure, in its order."""
    return [leaf for leaf in flatten_output(value)[0] if isinstance(leaf, torch.Tensor)]
