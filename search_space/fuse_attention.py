"""The rewrite ``sdpa``: fused attention in the place of attention written out.

What is found (:mod:`search_space.written_attention`) is put into the form that the fused kernels
take: four dimensions, features innermost, one additive mask. Masks that are proven to be causal or
to hide nothing then become a flag, as everywhere (:mod:`search_space.capture_masks`). The copy that
brings the heads behind the queries is not needed any more where the query lies so, since fused
attention lays its output out like the query.

One difference is left: a row of scores of which all are minus infinity gives zeros, where the
written form gives nan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from search_space.capture_masks import (
    SDPA,
    is_visible_everywhere,
    restore_grouped_heads,
    restore_mask_flags,
)
from search_space.graph import (
    ALIAS,
    FRESH,
    PARAMETER,
    POINTWISE,
    Argument,
    Node,
    Ref,
    TensorMeta,
    TorchConstant,
)
from search_space.mask_forms import Holds, Value
from search_space.mask_values import mask_values
from search_space.row_editor import RowEditor, copied, viewed
from search_space.sizes import Size, evaluate
from search_space.symbolic_layout import (
    awkward_values,
    dense_like,
    is_contiguous,
    row_major,
    times,
)
from search_space.written_attention import (
    Bias,
    Readers,
    Rows,
    Written,
    find_written,
    is_contiguous_copy,
    matrix_source,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Fused:
    """One attention after the rewrite, for whoever checks it.

    Attributes:
        operands: query, key and value, in the rows before.
        biases: what is added to the scores, there.
        before, after: the node that gives the result, in the rows before and after.
        moved: where operands and biases stand in the rows after.
    """

    operands: tuple[int, ...]
    biases: tuple[int, ...]
    before: int
    after: int
    moved: Mapping[int, int]

    @property
    def entries(self) -> tuple[int, ...]:
        """The nodes whose numbers both forms start from."""
        return (*self.operands, *self.biases)


def fuse_attention(
    rows: Rows, outputs: tuple[Argument, ...]
) -> tuple[Rows, tuple[Argument, ...]]:
    """The rows with fused attention wherever attention is written out; the same rows where it is
    nowhere, or in no form that a fused kernel takes."""
    made, found = fuse_each(rows, outputs)
    if not found:
        return rows, outputs
    for change in (restore_mask_flags, restore_grouped_heads):
        made = change(*made)
    return made


def fuse_each(
    rows: Rows, outputs: tuple[Argument, ...]
) -> tuple[tuple[Rows, tuple[Argument, ...]], tuple[Fused, ...]]:
    """As :func:`fuse_attention`, before masks become flags: the new rows and outputs, and what was
    fused."""
    readers = Readers(rows, outputs)
    written = find_written(rows, outputs)
    harmless = _that_hide_nothing(rows, written)
    plans: dict[int, _Replacement] = {}
    for one in written:
        made = _Replacement.of(rows, readers, one, harmless)
        if made is not None:
            plans[made.end] = made
    editor = RowEditor(rows)
    found = []
    for node in rows:
        plan = plans.get(node.index)
        if plan is None:
            editor.keep(node)
            continue
        after = editor.moved[node.index] = plan.write(editor)
        biases = tuple(bias.node for bias in plan.one.biases)
        moved = {entry: editor.moved[entry] for entry in (*plan.sources, *biases)}
        found.append(Fused(plan.sources, biases, node.index, after, moved))
    changed = tuple(editor.moved_argument(output) for output in outputs)
    return (tuple(editor.rows), changed), tuple(found)


def _that_hide_nothing(rows: Rows, written: Sequence[Written]) -> frozenset[Bias]:
    """Biases that add nothing, whatever the inputs."""
    biases = {bias for one in written for bias in one.biases}
    values = mask_values(rows, {bias.node for bias in biases}) if biases else {}
    return frozenset(
        bias for bias in biases
        if bias.node in values and _hides_nothing(bias, values[bias.node], rows)
    )  # fmt: skip


def _hides_nothing(bias: Bias, value: Value, rows: Rows) -> bool:
    if bias.fill is None:
        return is_visible_everywhere(value, rows[bias.node].outputs[0].dtype)
    return isinstance(value, Holds) and (value.is_true if bias.keep else value.is_false)


@dataclasses.dataclass(frozen=True)
class _Replacement:
    """How one written attention is replaced.

    Attributes:
        one: what was found.
        groups: the two leading sizes of the fused op's tensors.
        sources: query, key and value in the old rows, where ``key`` may be still transposed.
        transpose: whether the key's last two dimensions are to be exchanged.
        biases: those that do something.
        end: the old row that is replaced: the last product, or the copy that brings its heads
            behind the queries.
        behind: whether it is that copy.
    """

    rows: Rows
    one: Written
    groups: tuple[Size, Size]
    sources: tuple[int, ...]
    transpose: bool
    biases: tuple[Bias, ...]
    end: int
    behind: bool

    @staticmethod
    def of(
        rows: Rows, readers: Readers, one: Written, harmless: frozenset[Bias]
    ) -> _Replacement | None:
        """None where no fused kernel takes the attention."""
        biases = tuple(bias for bias in one.biases if bias not in harmless)
        key, transpose = _untransposed(rows, one.key)
        sources: tuple[int, ...] = (one.query, key, one.value)
        found = None if biases or transpose else _common_groups(rows, sources)
        groups = found or _groups(one.batch)
        dtype = rows[one.query].outputs[0].dtype
        for bias in biases:
            mask = rows[bias.node].outputs[0]
            wanted = dtype if bias.fill is None else "bool"
            if _mask_shape(mask.shape, one, groups) is None or mask.dtype != wanted:
                return None
        total = _broadcast([rows[bias.node].outputs[0].shape for bias in biases])
        if total is None or (biases and _mask_shape(total, one, groups) is None):
            return None
        if not transpose:
            sources = tuple(_grouped_source(rows, source, groups) for source in sources)
        end, behind = _end(rows, readers, one, groups)
        return _Replacement(rows, one, groups, sources, transpose, biases, end, behind)

    def write(self, editor: RowEditor) -> int:
        """Write the fused form; where its result stands."""
        rows, end = self.rows, self.rows[self.end]
        label, module = rows[self.one.softmax].name, rows[self.one.softmax].module
        mask = self._mask(editor, label, module) if self.biases else None
        query, key, value = (
            self._operand(editor, place, source, module)
            for place, source in enumerate(self.sources)
        )
        given = editor.meta(query)
        b, h, length, width = (*given.shape[:3], editor.meta(value).shape[-1])
        before = rows[self.one.weighted].outputs[0]
        strides = _laid_out((b, h, length, width), given.strides)
        meta = TensorMeta((b, h, length, width), strides, before.dtype, before.device)
        args: tuple[Argument, ...] = (
            Ref(query), Ref(key), Ref(value), None if mask is None else Ref(mask), 0.0, False,
        )  # fmt: skip
        made = editor.add(
            f"{label}_fused", SDPA, args, meta, frozenset({FRESH}), module,
            (("scale", float(self.one.scale)),),
        )  # fmt: skip
        if self.behind:
            shape, order = (b, length, h, width), _turned(strides)
            in_place = is_contiguous(shape, order)
            dense = dataclasses.replace(meta, shape=shape, strides=row_major(shape))
            turned = dense if in_place else dataclasses.replace(dense, strides=order)
            last = editor.add(
                f"{label}_turned", "aten.transpose.int", (Ref(made), 1, 2), turned,
                frozenset({ALIAS}), module,
            )  # fmt: skip
            if not in_place:
                last = copied(editor, f"{label}_behind", last, dense, module)
        else:
            whole = dataclasses.replace(meta, strides=row_major(meta.shape))
            last = copied(editor, f"{label}_copied", made, whole, module)
        return viewed(editor, end.name, last, end.outputs[0].shape, module)

    def _operand(self, editor: RowEditor, place: int, source: int, module: str) -> int:
        """A query, key or value with four dimensions and its features innermost."""
        name = ("query", "key", "value")[place]
        now = editor.moved[source]
        meta = editor.meta(now)
        if place == 1 and self.transpose:
            swapped = TensorMeta(
                (*meta.shape[:-2], meta.shape[-1], meta.shape[-2]),
                (*meta.strides[:-2], meta.strides[-1], meta.strides[-2]),
                meta.dtype, meta.device,
            )  # fmt: skip
            now = editor.add(
                f"{name}_rows", "aten.transpose.int", (Ref(now), -2, -1), swapped,
                frozenset({ALIAS}), module,
            )  # fmt: skip
            meta = swapped
        if meta.strides[-1] != 1:
            meta = dataclasses.replace(meta, strides=row_major(meta.shape))
            now = copied(editor, f"{name}_dense", now, meta, module)
        return viewed(editor, f"{name}_heads", now, (*self.groups, *meta.shape[-2:]), module)

    def _mask(self, editor: RowEditor, label: str, module: str) -> int:
        """All that is added to the scores as one tensor, of four dimensions or two."""
        parts = [self._addend(editor, bias, label, module) for bias in self.biases]
        total = parts[0]
        for part in parts[1:]:
            shape = _broadcast([editor.meta(total).shape, editor.meta(part).shape])
            assert shape is not None, "looked at before"
            meta = dataclasses.replace(
                editor.meta(part), shape=shape, strides=row_major(shape)
            )
            total = editor.add(
                f"{label}_mask", "aten.add.Tensor", (Ref(total), Ref(part)), meta,
                frozenset({POINTWISE, FRESH}), module,
            )  # fmt: skip
        shape = editor.meta(total).shape
        wanted = _mask_shape(shape, self.one, self.groups)
        assert wanted is not None
        return viewed(editor, f"{label}_mask_heads", total, wanted, module)

    def _addend(self, editor: RowEditor, bias: Bias, label: str, module: str) -> int:
        """One bias as numbers, its keys innermost so that sums of biases are row-major."""
        now = editor.moved[bias.node]
        meta = editor.meta(now)
        if bias.fill is not None:
            query = editor.meta(editor.moved[self.one.query])
            numbers = TensorMeta((), (), query.dtype, query.device)
            options: tuple[tuple[str, Argument], ...] = (
                ("dtype", TorchConstant("dtype", query.dtype)),
                ("device", TorchConstant("device", query.device)),
            )
            nothing, fill = (
                editor.add(f"{label}_{name}", "aten.scalar_tensor.default", (number,), numbers,
                           frozenset(), module, options)
                for name, number in (("visible", 0.0), ("hidden", bias.fill))
            )  # fmt: skip
            order = (nothing, fill) if bias.keep else (fill, nothing)
            meta = TensorMeta(meta.shape, row_major(meta.shape), query.dtype, query.device)
            return editor.add(
                f"{label}_hiding", "aten.where.self", (Ref(now), *map(Ref, order)), meta,
                frozenset({POINTWISE, FRESH}), module,
            )  # fmt: skip
        if editor.rows[now].kind == PARAMETER:
            # a kernel that may have to give it a gradient is not the fused one
            now = editor.add(
                f"{label}_plain", "aten.detach.default", (Ref(now),), meta, frozenset({ALIAS}),
                module,
            )  # fmt: skip
        if is_contiguous(meta.shape, meta.strides) or 0 in meta.strides:
            return now
        dense = dataclasses.replace(meta, strides=row_major(meta.shape))
        return copied(editor, f"{label}_bias", now, dense, module)


def _laid_out(shape: tuple[Size, ...], query: tuple[Size, ...]) -> tuple[Size, ...]:
    """The strides that fused kernels give their output: dense, and as the query lies, which mostly
    is with the heads behind the queries."""
    found = dense_like(shape, query)
    b, h, length, width = shape
    if is_contiguous((b, length, h, width), _turned(found)):
        return times(times(length, h), width), width, times(h, width), 1
    return found


def _turned(strides: tuple[Size, ...]) -> tuple[Size, ...]:
    """With heads and queries exchanged."""
    return strides[0], strides[2], strides[1], strides[3]


def _groups(batch: tuple[Size, ...]) -> tuple[Size, Size]:
    """Leading sizes as two: the last one, and all before it."""
    *before, heads = batch
    total: Size = 1
    for size in before:
        total = times(total, size)
    return total, heads


def _untransposed(rows: Rows, key: int) -> tuple[int, bool]:
    """The node that holds the keys as rows, and whether it must still be transposed."""
    for index in matrix_source(rows, key):
        node = rows[index]
        rank = len(node.outputs[0].shape)
        if node.op == "aten.transpose.int":
            dims = {dim % rank for dim in node.args[1:3] if isinstance(dim, int)}
            source = node.args[0]
            if dims == {rank - 2, rank - 1} and isinstance(source, Ref):
                return source.index, False
        if node.op == "aten.permute.default" and isinstance(node.args[1], tuple):
            order = [dim % rank for dim in node.args[1] if isinstance(dim, int)]
            source = node.args[0]
            swapped = [*range(rank - 2), rank - 1, rank - 2]
            if order == swapped and isinstance(source, Ref):
                return source.index, False
    return key, True


def _common_groups(rows: Rows, sources: Sequence[int]) -> tuple[Size, Size] | None:
    """Batch and heads of tensors of three dimensions that were made by merging the two, where all
    agree: ``(batch * heads, length, features)``."""
    found: set[tuple[Size, ...]] = set()
    for source in sources:
        shapes = [rows[index].outputs[0].shape for index in matrix_source(rows, source)]
        four = next((shape for shape in shapes if len(shape) == 4), None)
        if four is None or len(shapes[0]) != 3:
            return None
        found.add(four[:2])
    if len(found) != 1:
        return None
    batch, heads = found.pop()
    return batch, heads


def _grouped_source(rows: Rows, source: int, groups: tuple[Size, Size]) -> int:
    """The same numbers before they were copied or regrouped, where they were grouped as wanted."""
    for index in reversed(matrix_source(rows, source)):
        meta = rows[index].outputs[0]
        if len(meta.shape) == 4 and meta.shape[:2] == groups and meta.strides[-1] == 1:
            return index
    return source


def _mask_shape(
    shape: tuple[Size, ...], one: Written, groups: tuple[Size, Size]
) -> tuple[Size, ...] | None:
    """A mask's shape as the fused kernels take it: ``(queries, keys)`` or with the two leading
    sizes, each of which may be 1; None where there is none without repeating the mask."""
    rank = len(one.batch)
    if len(shape) == 2:
        return shape
    if len(shape) < 2 or shape[-1] == 1:
        return None
    lead = (*(1,) * (rank + 2 - len(shape)), *shape[:-2])
    *before, heads = lead
    total: Size = 1
    for size in before:
        total = times(total, size)
    if any(size != 1 for size in before) and total != groups[0]:
        return None
    return (total, heads, *shape[-2:]) if heads in (1, groups[1]) else None


def _broadcast(shapes: Sequence[tuple[Size, ...]]) -> tuple[Size, ...] | None:
    """The shape of a sum of tensors; None where it cannot be told. A size may be an expression that
    is 1 whatever the symbols are, as that of a slice of one position is."""
    rank = max(map(len, shapes), default=0)
    values = awkward_values(size for shape in shapes for size in shape)
    found: list[Size] = [1] * rank
    for shape in shapes:
        for place, size in enumerate(shape, rank - len(shape)):
            number, known = evaluate(size, values), evaluate(found[place], values)
            if number == 1 or number == known:
                continue
            if known != 1:
                return None
            found[place] = size
    return tuple(found)


def _end(
    rows: Rows, readers: Readers, one: Written, groups: tuple[Size, Size]
) -> tuple[int, bool]:
    """The row that the fused form replaces, and whether it has the heads behind the queries.

    That is the copy at the end of ``product -> regrouped -> (..., queries, heads, features)``.
    """
    node = rows[one.weighted]
    turned = False
    while (user := readers.only(node.index)) is not None:
        shape, after = node.outputs[0].shape, user.outputs[0].shape
        packet = user.op.rpartition(".")[0]
        if turned:
            copied = is_contiguous_copy(user) or (
                packet in ("aten.reshape", "aten._unsafe_view") and ALIAS not in user.traits
            )
            return (user.index, True) if copied else (one.weighted, False)
        if packet in ("aten.view", "aten._unsafe_view", "aten.reshape") and (
            shape[-2:] == after[-2:]
        ):
            node = user
        elif _brings_heads_behind(user, shape) and shape[-3] == groups[1]:
            node, turned = user, True
        else:
            break
    return one.weighted, False


def _brings_heads_behind(node: Node, shape: tuple[Size, ...]) -> bool:
    """``(..., heads, queries, features)`` to ``(..., queries, heads, features)``."""
    rank = len(shape)
    if rank < 4:
        return False
    if node.op == "aten.transpose.int":
        return {d % rank for d in node.args[1:3] if isinstance(d, int)} == {rank - 3, rank - 2}
    if node.op == "aten.permute.default" and isinstance(node.args[1], tuple):
        order = [dim % rank for dim in node.args[1] if isinstance(dim, int)]
        return order == [*range(rank - 3), rank - 2, rank - 3, rank - 1]
    return False

