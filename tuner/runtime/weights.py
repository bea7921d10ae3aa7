"""A model's weights, read anew at each call, in a fraction of a millisecond.

Generated code reads hundreds of them before its first kernel can start. By attributes, through
every module on the way, that took a UNet's 686 weights some milliseconds, during which a GPU had
nothing to do. Modules that several weights share are looked up once a call instead.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tuner.runtime.gate import GATE

WEIGHTS = "weights"
"""The name of the reader among a generated module's children."""


def read_weights(graph: fx.Graph) -> fx.Node:
    """A node that gives the list of weights. (By the reader's ``forward`` itself: global hooks,
    which a module's own call runs, expect tensors.)"""
    reader = graph.create_node("get_attr", WEIGHTS, name=WEIGHTS)
    return graph.create_node("call_method", "forward", (reader,), name="read")


def is_weight(node: fx.Node) -> bool:
    """Whether a node of generated code reads weights, or takes one of those that were read."""
    if node.op == "get_attr":
        return node.target == WEIGHTS
    if node.op == "call_method":
        return is_weight(node.all_input_nodes[0])
    return (
        node.target is operator.getitem
        and isinstance(node.args[0], fx.Node)
        and node.args[0].op == "call_method"
        and is_weight(node.args[0])
    )


@dataclass(frozen=True)
class Route:
    """How to reach the weights of some names from their model.

    Attributes:
        steps: modules on the way, each by the place of its parent (0 is the model) and its name.
        reads: for each weight, the place of its module, the table that holds it there, its name.
    """

    names: tuple[str, ...]
    steps: tuple[tuple[int, str], ...]
    reads: tuple[tuple[int, str, str], ...]

    @staticmethod
    def to(names: Sequence[str], model: torch.nn.Module) -> Route:
        """The route in a model as it is now."""
        places = {"": 0}
        steps: list[tuple[int, str]] = []

        def place(path: str) -> int:
            if path not in places:
                parent, _, name = path.rpartition(".")
                steps.append((place(parent), name))
                places[path] = len(steps)
            return places[path]

        reads = []
        for full in names:
            path, _, name = full.rpartition(".")
            owner = model.get_submodule(path)
            table = "_parameters" if name in owner._parameters else "_buffers"
            reads.append((place(path), table, name))
        return Route(tuple(names), tuple(steps), tuple(reads))


class Weights(torch.nn.Module):
    """Gives a model's weights as a list.

    Args:
        model: the one whose weights these are; read where they stand, at each call.
    """

    def __init__(self, route: Route, model: torch.nn.Module) -> None:
        super().__init__()
        self._route = route
        self.model = model

    def of(self, model: torch.nn.Module) -> Weights:
        """The same weights of another model of this structure."""
        return Weights(self._route, model)

    def forward(self) -> list[torch.Tensor]:
        """The weights, in the order of the route's names.

        Raises:
            AttributeError: the model no longer has one.
        """
        with GATE.using():
            model = self.model
            found: list[dict[str, Any]] = [vars(model)]
            try:
                for parent, name in self._route.steps:
                    found.append(vars(found[parent]["_modules"][name]))
                return [found[owner][table][name] for owner, table, name in self._route.reads]
            except (KeyError, TypeError):
                # a module was exchanged meanwhile; one of another kind gives the same weights its
                # own way, such as a parametrized one, for which that is always so from then on
                return [operator.attrgetter(name)(model) for name in self._route.names]
