"""What each kernel of a model takes beside its output: as the memory model tells, and as measured.

Every op of the captured graph is run once on real tensors, one of each kind (op, layouts, other
arguments), with the allocator watched::

    python -m experiments.workspaces unet --device cuda
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch
from torch.utils import _pytree as pytree

from cost_models.select import mib
from experiments.device_bars import on_device
from experiments.reach_session import bar
from search_space.graph import (
    ALIAS,
    CONSTANT,
    INPUT,
    LEAVES,
    Argument,
    Ref,
    SizedGraph,
    SizedNode,
    TorchConstant,
)
from search_space.torch_ops import torch_op, torch_value
from tuner.measure.backends import backend_for, resolve_device
from tuner.measure.protocol import Backend
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Captures


@dataclass(frozen=True, slots=True)
class Found:
    """One kind of call: the op, its tensors, and the bytes beside its output."""

    op: str
    tensors: str
    told_bytes: int
    measured_bytes: int
    output_bytes: int

    @property
    def off_bytes(self) -> int:
        """Told less measured; negative where the model promises too much."""
        return self.told_bytes - self.measured_bytes


def kernel_workspaces(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], backend: Backend
) -> tuple[Found, ...]:
    """All kinds of calls in one model's graph, in running order.

    Raises:
        CaptureError: the model cannot be captured.
    """
    located = Captures(model).locate(args, kwargs)
    graph = located.captured.graph
    analysis = Analysis.unmeasured(graph, located.bindings)
    leaves = pytree.tree_leaves((tuple(args), dict(kwargs)))
    given = iter([leaves[place] for place in located.captured.tensor_places])
    values: dict[int, Any] = {}
    for node in analysis.sized.nodes:
        if node.kind == INPUT:
            values[node.index] = next(given)
        elif node.kind == CONSTANT:
            values[node.index] = located.captured.constants[node.op]
        elif node.kind in LEAVES:
            values[node.index] = _weight(model, node.op)
    with torch.no_grad():
        return tuple(_run(analysis.sized, analysis.memory.workspace_bytes, values, backend))


def _weight(model: torch.nn.Module, name: str) -> torch.Tensor:
    owner, _, last = name.rpartition(".")
    found: torch.Tensor = getattr(model.get_submodule(owner), last)
    return found


def _run(
    graph: SizedGraph, told: Sequence[int], values: dict[int, Any], backend: Backend
) -> Iterator[Found]:
    last = {ref: node.index for node in graph.nodes for _, ref in node.refs}
    kept = graph.output_nodes
    seen: set[object] = set()
    for node in graph.nodes:
        if node.kind in LEAVES:
            continue
        args = _resolved(node.args, values)
        kwargs = {name: _resolved(value, values) for name, value in node.kwargs}
        function = torch_op(node.op) if node.op != "getitem" else None
        kind = (node.op, _described((args, kwargs)), str(node.kwargs))
        if function is None:
            values[node.index] = args[0][args[1]]
        elif ALIAS in node.traits or kind in seen:
            values[node.index] = function(*args, **kwargs)
        else:
            seen.add(kind)
            function(*args, **kwargs)  # the first call sets things up
            made, peak = backend.peak(partial(function, *args, **kwargs))
            values[node.index] = made
            output = _new_bytes(made, (args, kwargs))
            yield Found(node.op, kind[1], int(told[node.index]), peak.requested_bytes - output,
                        output)  # fmt: skip
        _drop(node, last, kept, values)


def _drop(
    node: SizedNode, last: Mapping[int, int], kept: frozenset[int], values: dict[int, Any]
) -> None:
    for _, ref in node.refs:
        if last[ref] == node.index and ref not in kept:
            values.pop(ref, None)


def _resolved(value: Argument | tuple[Argument, ...], values: Mapping[int, Any]) -> Any:
    if isinstance(value, tuple):
        return [_resolved(item, values) for item in value]
    if isinstance(value, Ref):
        return values[value.index]
    if isinstance(value, TorchConstant):
        return torch_value(value)
    return value


def _described(given: Any) -> str:
    """Shapes, strides and dtypes of tensors, and all other arguments."""

    def one(leaf: Any) -> str:
        if not isinstance(leaf, torch.Tensor):
            return str(leaf)
        dtype = str(leaf.dtype).removeprefix("torch.")
        return f"{dtype}{list(leaf.shape)}/{list(leaf.stride())}"

    return " ".join(one(leaf) for leaf in pytree.tree_leaves(given))


def _new_bytes(made: Any, given: Any) -> int:
    """Bytes of the storages that the call made and returned."""

    def storages(tree: Any) -> dict[int, int]:
        return {
            leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes()
            for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)
        }  # fmt: skip

    before = storages(given)
    return sum(size for place, size in storages(made).items() if place not in before)


def table(found: Sequence[Found], least_bytes: int) -> str:
    """The calls whose workspace was told wrong by at least so many bytes, the worst first."""
    lines = ["| op | told | measured | output | arguments |", "|---|---|---|---|---|"]
    for one in sorted(found, key=lambda one: -abs(one.off_bytes)):
        if abs(one.off_bytes) >= least_bytes:
            lines.append(
                f"| {one.op} | {mib(one.told_bytes)} | {mib(one.measured_bytes)} | "
                f"{mib(one.output_bytes)} | {one.tensors} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.workspaces", description="Workspaces, told and measured."
    )
    parser.add_argument("subject", help="a row of the table of subjects, such as gpt2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--length", type=int, help="that of the table without one")
    parser.add_argument("--least", type=int, default=4096, help="bytes from which a row is shown")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    row = on_device(bar(options.subject), device, length=options.length)
    model, inputs = row.make()
    args, kwargs = inputs(row.length)
    found = kernel_workspaces(model, args, kwargs, backend_for(device))
    print(f"{len(found)} kinds of calls on {device}, length {row.length}")
    print(table(found, options.least))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
