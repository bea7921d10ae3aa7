"""Other modules of generated code, made of one that is there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from tuner.runtime.direct_calls import call_directly


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """Another module of the same code and children."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return with_graph(module, graph)


def with_graph(
    module: fx.GraphModule, graph: fx.Graph, more: Mapping[str, torch.nn.Module] | None = None
) -> fx.GraphModule:
    """Another module that runs this graph, with the children of a given one and some more."""
    # (one made from the given module would copy its tree: weights must be read where they are)
    made = fx.GraphModule(torch.nn.Module(), fx.Graph(), type(module).__name__)
    for name, child in {**module._modules, **(more or {})}.items():
        made.add_module(name, child)
    made.graph = graph  # (which recompiles)
    call_directly(made)
    return made
