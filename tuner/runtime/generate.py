"""From an analysed graph and a plan to the module that runs it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from search_space.plan import Plan
from tuner.runtime.analysis import Analysis
from tuner.runtime.rewrite import rewrite
from tuner.runtime.weights import WEIGHTS, Weights


def generate(
    analysis: Analysis,
    plan: Plan,
    model: torch.nn.Module,
    constants: Mapping[str, torch.Tensor],
) -> fx.GraphModule:
    """The plan's code, just as the memory model took it: loops, inner loops and donations.

    Args:
        model: whose weights it reads at each call.
        constants: tensors of the graph's CONSTANT nodes, by name.
    """
    program = analysis.memory.program(plan.choices)
    return rewrite(program, model, constants, in_part=plan.bodies)


def with_weights_of(module: fx.GraphModule, model: torch.nn.Module) -> fx.GraphModule:
    """The same generated code, reading its weights from another model. Nothing is copied."""
    made = object.__new__(type(module))
    vars(made).update(vars(module))
    reader = module._modules[WEIGHTS]
    assert isinstance(reader, Weights)
    vars(made)["_modules"] = {**module._modules, WEIGHTS: reader.of(model)}
    return made
