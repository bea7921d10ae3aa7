"""Straight pieces of generated code: which nodes compile together, and what makes pieces alike."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from search_space.causal_attention import causal_attention
from tuner.runtime.storing import STORE, names_of
from tuner.runtime.weights import is_weight

_LEAST_KERNELS = 2
"""Pieces of fewer kernels have nothing to fuse."""


class Order:
    """A graph's nodes in groups: those that compile together, and single ones that do not.

    Numbers that depend on where a pass begins, and tensors made from them alone, go first, so that
    they do not cut the rest in two. All else keeps its order, on which memory depends.
    """

    def __init__(self, graph: fx.Graph, known: Mapping[str, int]) -> None:
        self._nodes = list(graph.nodes)
        self.fixed: dict[fx.Node, Any] = {}
        self._numbers: set[fx.Node] = set()
        for node in self._nodes:
            if node.op == "placeholder" and known and node.name in ("start", "length"):
                self._numbers.add(node)
                if node.name in known:
                    self.fixed[node] = known[node.name]
            inputs = node.all_input_nodes
            if _is_arithmetic(node) and inputs and all(one in self._numbers for one in inputs):
                self._numbers.add(node)
                if all(one in self.fixed for one in inputs):
                    numbers = fx.node.map_arg(node.args, lambda n: self.fixed[n])
                    self.fixed[node] = node.target(*numbers)

    def groups(self) -> Iterator[list[fx.Node]]:
        run: list[fx.Node] = []
        for node in self._ordered():
            if node in self.fixed and node.op != "placeholder":
                continue
            if self._may_compile(node):
                run.append(node)
                continue
            if _is_leaf(node) or node in self._numbers:
                yield [node]  # (what reads it comes later: it does not end a run)
                continue
            yield from self._run(run)
            run = []
            yield [node]
        yield from self._run(run)

    def _ordered(self) -> list[fx.Node]:
        def is_early(node: fx.Node) -> bool:
            return _is_leaf(node) or node in self._numbers or (
                node.op == "call_function"
                and not self._may_compile(node)
                and bool(node.all_input_nodes)
                and all(one in self._numbers for one in node.all_input_nodes)
            )

        return sorted(self._nodes, key=lambda node: not is_early(node))

    def _run(self, run: list[fx.Node]) -> Iterator[list[fx.Node]]:
        apart = [node for node in run if node.target is STORE and self._is_entangled(node, run)]
        run = [node for node in run if node not in apart]
        if self.is_worth_compiling(run):
            yield run
        else:
            yield from ([node] for node in run)
        # (nothing reads what is stored over any more)
        yield from ([node] for node in apart)

    def _is_entangled(self, store: fx.Node, run: Sequence[fx.Node]) -> bool:
        """Whether what is stored over enters a run under another name too: a compiler does not see
        that two inputs are one tensor, or takes both to be where they were in the first pass."""
        (place, _), inside = store.args, set(run)
        assert isinstance(place, fx.Node)
        entering = {one for node in run for one in node.all_input_nodes if one not in inside}
        return bool(entering & names_of(place, self._nodes) - {place})

    def is_worth_compiling(self, group: Sequence[fx.Node]) -> bool:
        """Whether there is something to fuse."""
        kernels = [node for node in group if self._may_compile(node) and not _is_view(node)]
        inside = set(group)
        leaving = (node for node in group if any(user not in inside for user in node.users))
        return len(kernels) >= _LEAST_KERNELS and not any(map(_has_several, leaving))

    def _may_compile(self, node: fx.Node) -> bool:
        if node.op != "call_function" or node.target is causal_attention or is_weight(node):
            return False
        if node in self._numbers:
            return False
        # numbers that are not fixed would be sizes that change from pass to pass
        return all(one in self.fixed or one not in self._numbers for one in node.all_input_nodes)


def _is_leaf(node: fx.Node) -> bool:
    return node.op in ("placeholder", "get_attr") or is_weight(node)


def _is_arithmetic(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (
        operator.add, operator.mul, operator.floordiv
    )


def _is_view(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(
        returned.alias_info is not None for returned in schema.returns
    )


def _has_several(node: fx.Node) -> bool:
    """Whether a node gives several tensors, whose parts other nodes take."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (
        len(schema.returns) != 1 or str(schema.returns[0].type) != "Tensor"
    )


@dataclass(frozen=True)
class Piece:
    """A run of nodes as a module of its own: what enters, what leaves, and what makes it like
    others; ``written`` are the places of inputs that it writes over."""

    module: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    written: tuple[int, ...]
    structure: object

    @staticmethod
    def of(nodes: Sequence[fx.Node], fixed: Mapping[fx.Node, Any]) -> Piece:
        inside = set(nodes)
        entering = dict.fromkeys(
            one for node in nodes for one in node.all_input_nodes
            if one not in inside and one not in fixed
        )  # fmt: skip
        leaving = tuple(node for node in nodes if any(user not in inside for user in node.users))
        made = fx.Graph()
        values: dict[fx.Node, Any] = dict(fixed)
        places: dict[fx.Node, object] = {}
        given = made.placeholder("given")
        given.meta["steal_arg"] = True  # (the compiler's word for a list that it empties)
        for place, node in enumerate(entering):
            values[node] = made.call_function(operator.getitem, (given, place))
            places[node] = ("input", place)
        rows: list[object] = []
        for place, node in enumerate(nodes):
            copied = made.create_node(
                "call_function", node.target,
                fx.node.map_arg(node.args, lambda n: values[n]),
                fx.node.map_arg(node.kwargs, lambda n: values[n]),
            )  # fmt: skip
            values[node] = copied
            rows.append((str(node.target), _structure(node.args, places, fixed),
                         _structure(node.kwargs, places, fixed)))  # fmt: skip
            places[node] = ("node", place)
        made.output(tuple(values[node] for node in leaving))
        rows.append(tuple(places[node] for node in leaving))
        module = fx.GraphModule(torch.nn.Module(), made, "Piece")
        inputs = tuple(entering)
        written = tuple(inputs.index(node.args[0]) for node in nodes if node.target is STORE)
        return Piece(module, inputs, leaving, written, repr(rows))


def _structure(
    value: Any, places: Mapping[fx.Node, object], fixed: Mapping[fx.Node, Any]
) -> object:
    if isinstance(value, fx.Node):
        return fixed[value] if value in fixed else places[value]
    if isinstance(value, (tuple, list)):
        return [_structure(item, places, fixed) for item in value]
    if isinstance(value, Mapping):
        return [(name, _structure(item, places, fixed)) for name, item in value.items()]
    return repr(value)
