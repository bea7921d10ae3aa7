"""Writes the rows of a graph anew, with some of them replaced."""

from __future__ import annotations

import dataclasses

from search_space.graph import (
    ALIAS,
    FRESH,
    OP,
    Argument,
    Node,
    Ref,
    TensorMeta,
    TorchConstant,
    map_arguments,
)
from search_space.sizes import Size
from search_space.symbolic_layout import regrouped, row_major

Rows = tuple[Node, ...]


class RowEditor:
    """Writes rows anew, in order.

    Attributes:
        moved: per old row, where it stands now.
    """

    def __init__(self, before: Rows) -> None:
        self.before = before
        self.rows: list[Node] = []
        self.moved = [-1] * len(before)
        self._names = {node.name for node in before}

    def moved_argument(self, value: Argument) -> Argument:
        def move(leaf: Argument) -> Argument:
            return Ref(self.moved[leaf.index]) if isinstance(leaf, Ref) else leaf

        return map_arguments(value, move)

    def keep(self, node: Node) -> None:
        """A row of old."""
        self.moved[node.index] = len(self.rows)
        self.rows.append(dataclasses.replace(
            node,
            index=len(self.rows),
            args=tuple(self.moved_argument(value) for value in node.args),
            kwargs=tuple((name, self.moved_argument(value)) for name, value in node.kwargs),
        ))  # fmt: skip

    def add(
        self,
        name: str,
        op: str,
        args: tuple[Argument, ...],
        meta: TensorMeta,
        traits: frozenset[str],
        module: str,
        kwargs: tuple[tuple[str, Argument], ...] = (),
    ) -> int:
        """A new row; its arguments count in the new rows."""
        label, number = name, 1
        while label in self._names:
            number += 1
            label = f"{name}_{number}"
        self._names.add(label)
        index = len(self.rows)
        self.rows.append(Node(index, label, OP, op, args, kwargs, (meta,), False, traits, module))
        return index

    def meta(self, index: int) -> TensorMeta:
        return self.rows[index].outputs[0]


def copied(editor: RowEditor, name: str, source: int, meta: TensorMeta, module: str) -> int:
    """A row-major copy of a tensor."""
    dense = TorchConstant("memory_format", "contiguous_format")
    return editor.add(
        name, "aten.clone.default", (Ref(source),), meta, frozenset({FRESH}), module,
        (("memory_format", dense),),
    )  # fmt: skip


def viewed(
    editor: RowEditor, name: str, source: int, shape: tuple[Size, ...], module: str
) -> int:
    """A row-major regrouping of a tensor's dimensions: itself, a view, or a copy where the strides
    allow no view."""
    meta = editor.meta(source)
    if meta.shape == shape:
        return source
    strides = regrouped(meta.shape, meta.strides, shape)
    # (no copy is certain: at some sizes there may be a view after all)
    traits = frozenset({ALIAS}) if strides is not None else frozenset[str]()
    made = dataclasses.replace(meta, shape=shape, strides=strides or row_major(shape))
    return editor.add(name, "aten.reshape.default", (Ref(source), shape), made, traits, module)
