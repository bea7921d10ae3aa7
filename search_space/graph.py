"""The captured model as plain data.

A :class:`Graph` holds nodes in execution order. Sizes may be expressions over the graph's symbols,
so that one graph serves every length; :meth:`Graph.at` puts numbers in and gives a
:class:`SizedGraph`, on which all analysis works. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from search_space.errors import UnsupportedSizes
from search_space.sizes import Expr, Size, evaluate

ITEM_BYTES: Mapping[str, int] = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8,
    "uint64": 8, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8,
    "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument that is the output of the node at ``index``."""

    index: int


@dataclass(frozen=True, slots=True)
class TorchConstant:
    """An argument that is one of torch's own values: ``kind`` is dtype, device, layout or
    memory_format, ``name`` its name without the ``torch.`` prefix."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Affine:
    """An argument of a chunk's op:
    ``(constant + start * chunk_start + length * chunk_length) / divisor``, a whole number.

    Start and length are counted in positions of the node's own chunk dimension. A divisor needs a
    rule whose chunks are multiples of it (``Flow.step``).
    """

    constant: int = 0
    start: int = 0
    length: int = 0
    divisor: int = 1

    def value(self, start: int, length: int) -> int:
        """The argument where a chunk has ``length`` positions from ``start`` on.

        Raises:
            ValueError: it would be no whole number.
        """
        total = self.constant + self.start * start + self.length * length
        if total % self.divisor:
            raise ValueError(f"{total} positions do not divide by {self.divisor}")
        return total // self.divisor


Argument = (
    None | bool | int | float | complex | str | Ref | Expr | TorchConstant | Affine
    | tuple["Argument", ...]
)  # fmt: skip
Path = tuple[int | str, ...]
"""Where an argument stands: a position or keyword, then positions inside nested tuples."""


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """A tensor of a graph: shape and strides in elements, dtype and device by name."""

    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor at given symbol values: shape and strides in elements, dtype and device by name."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: str

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, each counted once where the tensor is dense."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


# Node kinds. Inputs belong to the caller; parameters, buffers and constants to the model.
INPUT, PARAMETER, BUFFER, CONSTANT, OP = "input", "parameter", "buffer", "constant", "op"
LEAVES = frozenset({INPUT, PARAMETER, BUFFER, CONSTANT})

# Traits, read off the op by capture.
POINTWISE, RANDOM, ALIAS, OPAQUE, FRESH = "pointwise", "random", "alias", "opaque", "fresh"
"""pointwise: elementwise with broadcasting. random: draws numbers. alias: the output shares the
first tensor argument's storage. opaque: must never stand in a region (side effects, data-dependent
sizes, mutation). fresh: the output's storage is new, at whatever sizes; an op that is neither
alias nor fresh may be the one or the other."""


def _walk(value: Argument, path: Path) -> Iterator[tuple[Path, Argument]]:
    if isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from _walk(item, (*path, position))
    else:
        yield path, value


def walk_arguments(
    args: tuple[Argument, ...], kwargs: tuple[tuple[str, Argument], ...] = ()
) -> Iterator[tuple[Path, Argument]]:
    """All leaves of the arguments with their paths, positional first."""
    for position, value in enumerate(args):
        yield from _walk(value, (position,))
    for name, value in kwargs:
        yield from _walk(value, (name,))


def map_arguments(value: Argument, change: Callable[[Argument], Argument]) -> Argument:
    """``value`` with every leaf replaced by ``change(leaf)``."""
    if isinstance(value, tuple):
        return tuple(map_arguments(item, change) for item in value)
    return change(value)


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a captured model.

    ``op`` is the overload's full name (``aten.add.Tensor``), ``getitem`` for one output of a node
    that has several, or the dotted name of a parameter, buffer, constant or input. A constant
    without dimensions that stands in the model's code has its number as argument. ``module`` is the
    dotted path of the module whose code made the node, for people to read.
    """

    index: int
    name: str
    kind: str
    op: str
    args: tuple[Argument, ...] = ()
    kwargs: tuple[tuple[str, Argument], ...] = ()
    outputs: tuple[TensorMeta, ...] = ()
    several: bool = False
    traits: frozenset[str] = frozenset()
    module: str = ""


@dataclass(frozen=True, slots=True)
class SizedNode:
    """A :class:`Node` in which every size is a number. Fields as there; ``refs`` are the tensor
    arguments with their paths, in argument order; ``label`` is the node's name."""

    index: int
    label: str
    kind: str
    op: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]
    outputs: tuple[Tensor, ...]
    several: bool
    traits: frozenset[str]
    module: str
    refs: tuple[tuple[Path, int], ...]

    @property
    def output(self) -> Tensor:
        """Its tensor, or its first where it has several."""
        return self.outputs[0]

    def argument(self, position: int, name: str, default: Argument = None) -> Argument:
        """The argument at a position, or under its keyword, or the op's default."""
        if position < len(self.args):
            return self.args[position]
        for key, value in self.kwargs:
            if key == name:
                return value
        return default


@dataclass(frozen=True)
class Graph:
    """A captured model.

    Attributes:
        nodes: in execution order; ``nodes[i].index == i``. Leaves (inputs, parameters, buffers,
            constants) come first.
        outputs: the flat outputs: references, or plain values.
        symbols: the size symbols, in the order of their first appearance in the inputs.
        guards: boolean expressions over the symbols; the graph is right only where all hold.
        device: the kind of device captured on, ``cpu`` or ``cuda``.
        rewrites: names of the passes that changed it since (:mod:`search_space.rewrites`).
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Argument, ...]
    symbols: tuple[str, ...]
    guards: tuple[Expr, ...]
    device: str
    rewrites: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The caller's tensors, in the order of a call's flattened arguments."""
        return tuple(node for node in self.nodes if node.kind == INPUT)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the structure: ops, topology, arguments, dtypes, device
        kind, symbolic shapes. Names, weights and the length do not enter."""
        rows: list[object] = [self.device, list(self.symbols), [_plain(o) for o in self.outputs]]
        for node in self.nodes:
            rows.append([
                node.kind,
                node.op if node.kind == OP else "",
                _plain(node.args),
                [[name, _plain(value)] for name, value in node.kwargs],
                [[_plain(t.shape), _plain(t.strides), t.dtype] for t in node.outputs],
            ])  # fmt: skip
        text = json.dumps(rows, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def bind(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        """The symbols' values for a call whose tensors have these shapes.

        Raises:
            UnsupportedSizes: the shapes contradict what the capture assumed.
        """
        inputs = self.inputs
        if len(shapes) != len(inputs):
            raise UnsupportedSizes(
                f"the captured model takes {len(inputs)} tensors, but the call gave {len(shapes)}"
            )
        bindings: dict[str, int] = {}
        for node, shape in zip(inputs, shapes, strict=True):
            want = node.outputs[0].shape
            if len(want) != len(shape):
                raise UnsupportedSizes(
                    f"input {node.op!r} was captured with {len(want)} dimensions, got {len(shape)}"
                )
            for size, value in zip(want, shape, strict=True):
                if isinstance(size, Expr) and size.text.isidentifier():
                    bindings.setdefault(size.text, value)
        missing = [symbol for symbol in self.symbols if symbol not in bindings]
        if missing:
            raise UnsupportedSizes(f"no input has {', '.join(missing)} as a dimension of its own")
        for node, shape in zip(inputs, shapes, strict=True):
            for axis, (size, value) in enumerate(
                zip(node.outputs[0].shape, shape, strict=True)
            ):
                if evaluate(size, bindings) != value:
                    raise UnsupportedSizes(
                        f"input {node.op!r}: dimension {axis} was captured as {size}, got {value}"
                    )
        for guard in self.guards:
            if not evaluate(guard, bindings):
                raise UnsupportedSizes(f"the capture assumed {guard}, which {bindings} contradicts")
        return bindings

    def at(self, bindings: Mapping[str, int]) -> SizedGraph:
        """The graph with every symbol replaced by its value."""
        cache: dict[str, int] = {}

        def number(size: Size) -> int:
            if isinstance(size, int):
                return size
            if size.text not in cache:
                cache[size.text] = int(evaluate(size, bindings))
            return cache[size.text]

        def fix(value: Argument) -> Argument:
            return evaluate(value, bindings) if isinstance(value, Expr) else value

        nodes = []
        for node in self.nodes:
            args = tuple(map_arguments(value, fix) for value in node.args)
            kwargs = tuple((name, map_arguments(value, fix)) for name, value in node.kwargs)
            refs = tuple(
                (path, value.index)
                for path, value in walk_arguments(args, kwargs)
                if isinstance(value, Ref)
            )
            outputs = tuple(
                Tensor(
                    tuple(number(s) for s in t.shape),
                    tuple(number(s) for s in t.strides),
                    t.dtype,
                    t.device,
                )
                for t in node.outputs
            )
            sized = SizedNode(
                node.index, node.name, node.kind, node.op, args, kwargs, outputs, node.several,
                node.traits, node.module, refs,
            )  # fmt: skip
            nodes.append(sized)
        outputs_ = tuple(map_arguments(value, fix) for value in self.outputs)
        return SizedGraph(
            tuple(nodes), outputs_, tuple(sorted(bindings.items())), self.fingerprint, self.rewrites
        )


@dataclass(frozen=True)
class SizedGraph:
    """A :class:`Graph` at given symbol values; the object of all analysis."""

    nodes: tuple[SizedNode, ...]
    outputs: tuple[Argument, ...]
    bindings: tuple[tuple[str, int], ...]
    fingerprint: str = field(default="", compare=False)
    rewrites: tuple[str, ...] = ()

    @cached_property
    def is_leaf(self) -> NDArray[np.bool_]:
        """For each node, whether it computes nothing: an input, parameter, buffer or constant."""
        return np.array([node.kind in LEAVES for node in self.nodes], bool)

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the distinct nodes that take its output, ascending."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for index in dict.fromkeys(index for _, index in node.refs):
                found[index].append(node.index)
        return tuple(tuple(users) for users in found)

    @cached_property
    def output_nodes(self) -> frozenset[int]:
        """The nodes whose tensors the model returns."""
        return frozenset(
            value.index for _, value in walk_arguments(self.outputs) if isinstance(value, Ref)
        )

    @cached_property
    def base(self) -> tuple[int, ...]:
        """For each node, the node that owns its storage: itself, or the end of its alias chain.

        The parts of an op with several outputs count as one storage, freed with its last part.
        """
        owner = list(range(len(self.nodes)))
        for node in self.nodes:
            if (ALIAS in node.traits or node.op == "getitem") and node.refs:
                owner[node.index] = owner[node.refs[0][1]]
        return tuple(owner)


    @cached_property
    def flows(self) -> dict[tuple[int, int], object]:
        """What the dimension rules said of nodes and dimensions, kept for whoever asks again."""
        return {}


def _plain(value: Argument | tuple[Size, ...]) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Ref):
        return {"ref": value.index}
    if isinstance(value, Expr):
        return {"expr": value.text}
    if isinstance(value, TorchConstant):
        # the index of a device is a matter of the machine, not of the model
        name = value.name.partition(":")[0] if value.kind == "device" else value.name
        return {value.kind: name}
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    return repr(value)
