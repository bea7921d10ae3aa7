"""Which kernels a model's operations run as: graph rewrites, offered and checked.

A rewrite is never believed on its pattern alone. What it puts in the place of the captured
operations is run beside them, once per capture and distinct form, on random numbers at small sizes,
and a graph in which the two differ stays as it was captured.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch

from search_space.capture import Capture
from search_space.capture_masks import restore_mask_flags
from search_space.errors import AutoChunkError
from search_space.fuse_attention import Fused, fuse_each
from search_space.graph import (
    CONSTANT,
    LEAVES,
    Argument,
    Graph,
    Ref,
    SizedGraph,
    SizedNode,
    TorchConstant,
    map_arguments,
)
from search_space.rewrites import Kernels, rewritten
from search_space.sizes import evaluate
from search_space.torch_ops import torch_op, torch_value, without_autocast

log = logging.getLogger("autochunk")

_SIDES = (24, 32, 48, 40, 64, 16, 96, 112, 128, 56, 72, 80, 144, 160, 192, 224, 256)
"""Sizes to check at: the first that suits a capture's guards is taken for all of its symbols."""

_MOST_ELEMENTS = 1 << 24

_TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 3e-2, "float16": 4e-3}
"""Of the largest value, by dtype."""


class Forms:
    """Which forms of a capture may run: the one that was tuned, else all, the preferred one first.

    Args:
        is_tuned: tells of a fingerprint whether plans are known.
    """

    def __init__(self, kernels: Kernels, is_tuned: Callable[[str], bool] | None = None) -> None:
        self._kernels = kernels
        self._is_tuned = is_tuned or (lambda fingerprint: False)
        # by id, as long as the capture is; None stands for the capture itself
        self._kept: dict[int, tuple[weakref.ref[Capture], tuple[Capture | None, ...]]] = {}

    def of(self, captured: Capture, bindings: Mapping[str, int]) -> tuple[Capture, ...]:
        """The forms of a capture that may serve a call with these symbol values."""
        key = id(captured)
        if key not in self._kept:
            found = variants(captured, self._kernels, bindings)
            tuned = tuple(one for one in found if self._is_tuned(one.graph.fingerprint))
            forms = tuple(None if one is captured else one for one in tuned[:1] or found)
            gone = weakref.ref(captured, lambda _: self._kept.pop(key, None))
            self._kept[key] = (gone, forms)
        return tuple(captured if one is None else one for one in self._kept[key][1])

    def chosen(self, captured: Capture, bindings: Mapping[str, int]) -> Capture:
        """The tuned form, else the preferred one."""
        return self.of(captured, bindings)[0]


def variants(
    captured: Capture, kernels: Kernels, bindings: Mapping[str, int]
) -> tuple[Capture, ...]:
    """The forms of a capture that may run, the preferred one first.

    Args:
        bindings: of the call, at which a rewrite is checked where no small sizes are possible.
    """
    if kernels.attention == "keep":
        return (captured,)
    changed = with_rewrites(captured, ("sdpa",), bindings)
    if changed.graph.rewrites == captured.graph.rewrites:
        if kernels.attention == "sdpa":
            log.info("autochunk: no attention was found that could run as a fused kernel")
        return (captured,)
    return (changed,) if kernels.attention == "sdpa" else (changed, captured)


def with_rewrites(
    captured: Capture, names: tuple[str, ...], bindings: Mapping[str, int]
) -> Capture:
    """A capture after these rewrites; those that find nothing to do, or whose result is not the
    same numbers, leave it as it is.

    Raises:
        PlanError: there is no rewrite of that name.
    """
    for name in names:
        graph = rewritten(captured.graph, (name,))
        if graph is captured.graph:
            continue
        reason = _CHECKS[name](captured.graph, bindings)
        if reason is not None:
            log.warning("autochunk: the rewrite %s is not used: %s", name, reason)
            continue
        captured = dataclasses.replace(captured, graph=graph)
    return captured


def check_attention(graph: Graph, bindings: Mapping[str, int]) -> str | None:
    """Whether fused attention gives what the graph's written attention does; None where it does,
    else what is wrong."""
    (rows, outputs), fused = fuse_each(graph.nodes, graph.outputs)
    # (heads that are repeated are proven to be; read before that, they would start elsewhere)
    rows, outputs = restore_mask_flags(rows, outputs)
    small = _small_bindings(graph, bindings)
    before = graph.at(small)
    after = dataclasses.replace(graph, nodes=rows, outputs=outputs).at(small)
    seen: set[str] = set()
    for one in fused:
        form = _form(before, one)
        if form in seen:
            continue
        seen.add(form)
        with without_autocast():
            reason = _check_one(before, after, one)
        if reason is not None:
            return f"{before.nodes[one.before].module or 'attention'}: {reason}"
    return None


_CHECKS: Mapping[str, Callable[[Graph, Mapping[str, int]], str | None]] = {
    "sdpa": check_attention
}


def _small_bindings(graph: Graph, bindings: Mapping[str, int]) -> Mapping[str, int]:
    for side in _SIDES:
        tried = dict.fromkeys(graph.symbols, side)
        try:
            if all(evaluate(guard, tried) for guard in graph.guards):
                return tried
        except AutoChunkError:
            continue
    return bindings


def _check_one(before: SizedGraph, after: SizedGraph, one: Fused) -> str | None:
    scores = max(node.output.numel for node in _needed(before, one.before, one.entries))
    if scores > _MOST_ELEMENTS:
        return f"it cannot be checked at small sizes ({scores} elements are the fewest)"
    given = _entries(before, one)
    expected = _value(before, one.before, given)
    moved = {now: given[old] for old, now in one.moved.items() if old in given}
    if any(node.kind in LEAVES and node.index not in moved and not _is_number(node)
           for node in _needed(after, one.after, tuple(moved))):  # fmt: skip
        return "the fused form reads what the written one does not"
    try:
        found = _value(after, one.after, moved)
    except RuntimeError as error:
        return f"the fused kernel refuses it: {str(error).splitlines()[0]}"
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    told = after.nodes[one.after].output
    steps = zip(told.shape, told.strides, found.stride(), strict=True)
    # (elsewhere it depends on the kernel, and nothing is read in place that may lie otherwise)
    if told.device == "cpu" and any(size > 1 and ours != theirs for size, ours, theirs in steps):
        return f"its result has strides {found.stride()}, not {told.strides}"
    apart = (found.double() - expected.double()).abs().max().item()
    allowed = _TOLERANCE[before.nodes[one.before].output.dtype]
    most = expected.double().abs().max().item()
    if not apart <= allowed * max(most, 1e-6):
        return f"it differs by {apart:.3g} where values reach {most:.3g}"
    return None


def _entries(graph: SizedGraph, one: Fused) -> dict[int, torch.Tensor]:
    """Random numbers for where both forms start: all of it, but masks that depend on no input."""
    generator = torch.Generator().manual_seed(0)
    given: dict[int, torch.Tensor] = {}
    for entry in one.entries:
        needed = list(_needed(graph, entry, ()))
        if entry in one.operands or any(
            node.kind in LEAVES and not _is_number(node) for node in needed
        ):
            given[entry] = _random(graph.nodes[entry], generator)
    return given


def _is_number(node: SizedNode) -> bool:
    """Whether it is a constant whose number the graph tells."""
    return node.kind == CONSTANT and bool(node.args)


def _random(node: SizedNode, generator: torch.Generator) -> torch.Tensor:
    meta = node.output
    if meta.dtype == "bool":
        # (of the sizes that are checked at, a row without any key is as good as never drawn)
        drawn = torch.rand(meta.shape, generator=generator) < 0.5
        if meta.shape[-1:] == (1,):
            drawn[:] = True
        return drawn.to(meta.device)
    count = 1 + sum((n - 1) * step for n, step in zip(meta.shape, meta.strides, strict=True))
    flat = torch.randn(count, generator=generator).to(getattr(torch, meta.dtype))
    return flat.as_strided(meta.shape, meta.strides).to(meta.device)


def _needed(graph: SizedGraph, target: int, given: tuple[int, ...]) -> Iterator[SizedNode]:
    """The nodes that a node depends on and itself, up to those given, in order."""
    found: set[int] = set()
    waiting = [target]
    while waiting:
        index = waiting.pop()
        if index in found:
            continue
        found.add(index)
        if index not in given:
            waiting.extend(ref for _, ref in graph.nodes[index].refs)
    return (graph.nodes[index] for index in sorted(found))


def _value(graph: SizedGraph, target: int, given: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """A node's tensor, computed from those given."""
    values: dict[int, Any] = dict(given)
    with torch.no_grad():
        for node in _needed(graph, target, tuple(given)):
            if node.index in values:
                continue
            if _is_number(node):
                meta, number = node.output, cast("int | float", node.args[0])
                values[node.index] = torch.full(
                    (), number, dtype=getattr(torch, meta.dtype), device=meta.device
                )
                continue

            def put(leaf: Argument) -> Any:
                if isinstance(leaf, Ref):
                    return values[leaf.index]
                return torch_value(leaf) if isinstance(leaf, TorchConstant) else leaf

            args = [map_arguments(value, put) for value in node.args]
            kwargs = {name: map_arguments(value, put) for name, value in node.kwargs}
            values[node.index] = torch_op(node.op)(*args, **kwargs)
    made: torch.Tensor = values[target]
    return made


def _form(graph: SizedGraph, one: Fused) -> str:
    """What makes two attentions alike, as text."""
    nodes = list(_needed(graph, one.before, one.entries))
    places = {node.index: place for place, node in enumerate(nodes)}

    def relative(leaf: Argument) -> Argument:
        return Ref(places.get(leaf.index, -1)) if isinstance(leaf, Ref) else leaf

    rows = [
        (
            node.index in one.entries, node.op if node.index not in one.entries else "",
            tuple(map_arguments(value, relative) for value in node.args)
            if node.index not in one.entries else (),
            node.outputs,
        )
        for node in nodes
    ]  # fmt: skip
    return repr((rows, [places[entry] for entry in one.entries]))
