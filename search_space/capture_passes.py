"""What capture does to a traced graph, pass by pass, before it is analysed.

Each pass takes rows and outputs and gives new ones. They remove what would only hinder analysis:
edges that carry no data, copies that nobody can tell from the original, nodes that nobody reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from search_space.capture_masks import restore_grouped_heads, restore_mask_flags
from search_space.graph import (
    FRESH,
    INPUT,
    LEAVES,
    OP,
    OPAQUE,
    RANDOM,
    Argument,
    Node,
    Ref,
    TensorMeta,
    TorchConstant,
    map_arguments,
    walk_arguments,
)
from search_space.symbolic_layout import is_contiguous

Rows = tuple[Node, ...]
Pass = Callable[[Rows, tuple[Argument, ...]], tuple[Rows, tuple[Argument, ...]]]

_CREATED_LIKE: Mapping[str, str] = {
    "aten.new_ones.default": "aten.ones.default",
    "aten.new_zeros.default": "aten.zeros.default",
    "aten.new_empty.default": "aten.empty.memory_format",
    "aten.new_full.default": "aten.full.default",
    "aten.ones_like.default": "aten.ones.default",
    "aten.zeros_like.default": "aten.zeros.default",
    "aten.empty_like.default": "aten.empty.memory_format",
    "aten.full_like.default": "aten.full.default",
}


def cut_metadata_edges(
    rows: Rows, outputs: tuple[Argument, ...]
) -> tuple[Rows, tuple[Argument, ...]]:
    """``new_ones(x)``, ``zeros_like(x)`` read only x's dtype, device and sizes: drop the edge.

    Left in, such an edge keeps x alive and breaks the convexity of every region around it.
    """
    changed = []
    for node in rows:
        op = _CREATED_LIKE.get(node.op)
        contiguous = op is not None and node.kind == OP and _is_row_major(node.outputs[0])
        if op is None or not contiguous:
            changed.append(node)
            continue
        meta = node.outputs[0]
        fill: tuple[Argument, ...] = ()
        if op == "aten.full.default":
            place = 2 if node.op == "aten.new_full.default" else 1
            fill = (dict(node.kwargs)["fill_value"],) if len(node.args) <= place else (
                node.args[place],
            )  # fmt: skip
        kwargs: tuple[tuple[str, Argument], ...] = (
            ("dtype", TorchConstant("dtype", meta.dtype)),
            ("device", TorchConstant("device", meta.device)),
        )
        changed.append(
            dataclasses.replace(
                node, op=op, args=(meta.shape, *fill), kwargs=kwargs, traits=frozenset()
            )
        )
    return tuple(changed), outputs


def _is_row_major(meta: TensorMeta) -> bool:
    return is_contiguous(meta.shape, meta.strides)


def drop_clones(rows: Rows, outputs: tuple[Argument, ...]) -> tuple[Rows, tuple[Argument, ...]]:
    """Remove ``clone``s that keep the layout, as evaluation-mode dropout leaves them.

    The graph is functional, so that nobody can tell the copy from the original, except the caller
    where the copy, or a view of it, is an output: what the caller then writes to must be no input,
    weight or other output.
    """
    kept = _behind(rows, outputs)
    moved: dict[int, int] = {}
    for node in rows:
        if node.op == "aten.clone.default" and node.index not in kept:
            source = node.args[0]
            assert isinstance(source, Ref)
            origin = moved.get(source.index, source.index)
            if rows[origin].outputs[0] == node.outputs[0]:
                moved[node.index] = origin
    return _redirect(rows, outputs, moved)


_SCATTERS = frozenset({
    "aten.slice_scatter.default", "aten.select_scatter.default", "aten.diagonal_scatter.default",
})  # fmt: skip


def drop_copies(rows: Rows, outputs: tuple[Argument, ...]) -> tuple[Rows, tuple[Argument, ...]]:
    """``x[..., ::2] = y`` is traced as a copy of y which lies as the old values did, and is then
    scattered: let the scatter read y itself.

    The copy's storage reaches from the start of x's to the last old value, gaps included. Where y
    is broadcast or cast by it, and where anything else reads it, it stays.
    """
    readers: dict[int, list[tuple[str, object]]] = {}
    for node in rows:
        for path, value in walk_arguments(node.args, node.kwargs):
            if isinstance(value, Ref):
                readers.setdefault(value.index, []).append((node.op, path))
    kept = {value.index for _, value in walk_arguments(outputs) if isinstance(value, Ref)}
    moved: dict[int, int] = {}
    for node in rows:
        if node.op != "aten.copy.default" or node.index in kept:
            continue
        source = node.args[1]
        assert isinstance(source, Ref)
        made, given = node.outputs[0], rows[source.index].outputs[0]
        same = (made.shape, made.dtype, made.device) == (given.shape, given.dtype, given.device)
        read = readers.get(node.index, [])
        if same and all(op in _SCATTERS and path == (1,) for op, path in read):
            moved[node.index] = moved.get(source.index, source.index)
    return _redirect(rows, outputs, moved)


def drop_broadcasts(rows: Rows, outputs: tuple[Argument, ...]) -> tuple[Rows, tuple[Argument, ...]]:
    """Losses broadcast their arguments to each other first: tensors that this leaves as they are,
    mostly all, are read themselves. As the parts of one op they would count as new ones."""
    kept = {value.index for _, value in walk_arguments(outputs) if isinstance(value, Ref)}
    moved: dict[int, int] = {}
    for node in rows:
        if node.op != "getitem" or node.index in kept:
            continue
        several, place = node.args
        assert isinstance(several, Ref)
        broadcast = rows[several.index]
        if broadcast.op != "aten.broadcast_tensors.default":
            continue
        given = broadcast.args[0]
        assert isinstance(given, tuple) and isinstance(place, int)
        source = given[place]
        assert isinstance(source, Ref)
        if rows[source.index].outputs[0] == node.outputs[0]:
            moved[node.index] = moved.get(source.index, source.index)
    return _redirect(rows, outputs, moved)


def _behind(rows: Rows, outputs: tuple[Argument, ...]) -> set[int]:
    """The outputs, and all nodes whose storage they may share: those that they are views of."""
    waiting = [value.index for _, value in walk_arguments(outputs) if isinstance(value, Ref)]
    found: set[int] = set()
    while waiting:
        node = rows[waiting.pop()]
        if node.index in found:
            continue
        found.add(node.index)
        if FRESH not in node.traits:
            arguments = walk_arguments(node.args, node.kwargs)
            waiting.extend(value.index for _, value in arguments if isinstance(value, Ref))
    return found


def drop_dead(rows: Rows, outputs: tuple[Argument, ...]) -> tuple[Rows, tuple[Argument, ...]]:
    """Remove ops and the model's own leaves that no output needs; renumber the rest: weights in the
    order of their first use, so that it does not matter how a front end orders them, then inputs in
    the caller's, then ops."""
    live = {value.index for _, value in walk_arguments(outputs) if isinstance(value, Ref)}
    for node in reversed(rows):
        if node.index in live or OPAQUE in node.traits or RANDOM in node.traits:
            live.add(node.index)
            live.update(
                value.index
                for _, value in walk_arguments(node.args, node.kwargs)
                if isinstance(value, Ref)
            )
    live.update(node.index for node in rows if node.kind == INPUT)
    ordered = [node for node in rows if node.index in live]
    used: dict[int, int] = {}
    for node in ordered:
        for _, value in walk_arguments(node.args, node.kwargs):
            if isinstance(value, Ref):
                used.setdefault(value.index, len(used))
    ordered.sort(key=lambda node: (
        (0, used.get(node.index, len(used))) if node.kind in LEAVES - {INPUT}
        else (1 if node.kind == INPUT else 2, 0)
    ))  # fmt: skip
    places = {node.index: place for place, node in enumerate(ordered)}

    def move(value: Argument) -> Argument:
        return Ref(places[value.index]) if isinstance(value, Ref) else value

    renumbered = tuple(
        dataclasses.replace(
            node,
            index=place,
            args=tuple(map_arguments(value, move) for value in node.args),
            kwargs=tuple((name, map_arguments(value, move)) for name, value in node.kwargs),
        )
        for place, node in enumerate(ordered)
    )
    return renumbered, tuple(map_arguments(value, move) for value in outputs)


def _redirect(
    rows: Rows, outputs: tuple[Argument, ...], moved: Mapping[int, int]
) -> tuple[Rows, tuple[Argument, ...]]:
    def move(value: Argument) -> Argument:
        return Ref(moved.get(value.index, value.index)) if isinstance(value, Ref) else value

    changed = tuple(
        dataclasses.replace(
            node,
            args=tuple(map_arguments(value, move) for value in node.args),
            kwargs=tuple((name, map_arguments(value, move)) for name, value in node.kwargs),
        )
        for node in rows
    )
    return changed, tuple(map_arguments(value, move) for value in outputs)


PASSES: tuple[Pass, ...] = (
    cut_metadata_edges, drop_clones, drop_copies, drop_broadcasts, restore_mask_flags,
    restore_grouped_heads, drop_dead,
)  # fmt: skip
"""What capture does to the traced rows, in order."""

