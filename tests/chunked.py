"""A model with as much as possible of it in chunks, without a search for what is best."""

from __future__ import annotations

from typing import Any

import torch

from cost_models.ceilings import default_ceilings
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
    space = Analysis(graph, located.bindings, default_ceilings(graph.device), Prober()).space
    plan = space.decode({item.key: max(1, item.extent // passes) for item in space.classes})
    assert plan.choices, "nothing is chunked, so nothing would be tested"
    return apply_plan(model, plan, args, kwargs, captures=captures)
