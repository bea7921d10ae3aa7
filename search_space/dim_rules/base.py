"""Dimension flow: what one op needs of its arguments to compute a slice of its output.

For an op and one dimension of its output, a rule answers per *argument position* (in ``y @ y`` both
arguments are one node): slice this argument at that dimension, or take it whole. It also gives the
op to run on the slices, since sizes among the arguments change with the chunk.

Rules see sizes as numbers, at one length. A region's legality is therefore checked again at every
length at which it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from search_space.graph import Argument, Path, Ref, SizedGraph, SizedNode, Tensor


@dataclass(frozen=True, slots=True)
class Slice:
    """An argument is sliced at ``dim``; ``ratio`` of its positions belong to one of the output's.

    Positions ``[s, e)`` of the output's chunk dimension need positions ``[s * ratio, e * ratio)``.
    A ratio below one (1/64 where heads of 64 are merged) restricts chunks to multiples.
    """

    dim: int
    ratio: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True)
class Flow:
    """How one op runs on a slice of its output.

    Attributes:
        slices: the tensor arguments to slice, by path in the arguments below; all others are
            taken whole.
        op: the op to run instead of the node's own (``view`` becomes ``reshape``), or None.
        args, kwargs: the arguments to run it on, with :class:`~search_space.graph.Affine` where a
            value depends on the chunk; None to keep the node's own.
        step: chunks start and end at multiples of this many positions of the output (the channels
            of a group, where groups are normalised).
        exact: False where slicing re-associates a reduction, so that results may differ in the
            last bits.
    """

    slices: tuple[tuple[Path, Slice], ...] = ()
    op: str | None = None
    args: tuple[Argument, ...] | None = None
    kwargs: tuple[tuple[str, Argument], ...] | None = None
    step: int = 1
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Query:
    """A rule's question: ``node``'s output (every output, where it has several) is sliced at
    ``dim``, which is not negative and has at least two positions."""

    graph: SizedGraph
    node: SizedNode
    dim: int

    def tensor(self, index: int) -> Tensor:
        """The (first) tensor that the node at ``index`` gives."""
        return self.graph.nodes[index].output


    @property
    def shape(self) -> tuple[int, ...]:
        """The output's shape."""
        return self.node.output.shape

    @property
    def rank(self) -> int:
        return len(self.node.output.shape)

    def argument(self, position: int, name: str, default: Argument = None) -> Argument:
        """An argument of the op, by position or keyword, or the op's default."""
        return self.node.argument(position, name, default)

    def tensor_at(self, position: int) -> Tensor | None:
        """The tensor argument at a position; None where there is none."""
        value = self.node.args[position] if position < len(self.node.args) else None
        return self.tensor(value.index) if isinstance(value, Ref) else None


def normalized(dim: Argument, rank: int) -> int:
    """A dimension argument counted from the front."""
    if not isinstance(dim, int):
        raise TypeError(f"a dimension must be a number, got {dim!r}")
    return dim + rank if dim < 0 else dim


def normalized_all(dims: Argument, rank: int) -> tuple[int, ...]:
    """One or several dimensions, counted from the front; all of them for None or ()."""
    if dims is None or dims == ():
        return tuple(range(rank))
    if isinstance(dims, tuple):
        return tuple(normalized(dim, rank) for dim in dims)
    return (normalized(dims, rank),)


def aligned(query: Query, path: Path, index: int) -> tuple[tuple[Path, Slice], ...]:
    """How an argument that broadcasts against the output is sliced: at the dimension that lines up
    from the right, or whole (no entry) where it has one position there, or none."""
    shape = query.tensor(index).shape
    dim = query.dim - (query.rank - len(shape))
    return ((path, Slice(dim)),) if dim >= 0 and shape[dim] > 1 else ()


def along_first(query: Query, *forbidden: int) -> Flow | None:
    """The flow of an op that keeps its first argument's dimensions and mixes the forbidden ones."""
    if query.dim in forbidden or not query.node.refs:
        return None
    path, index = query.node.refs[0]
    if query.tensor(index).shape[query.dim : query.dim + 1] != (query.shape[query.dim],):
        return None
    return Flow(((path, Slice(query.dim)),))


def repeated(value: Argument, count: int) -> tuple[int, ...] | None:
    """A number for each of ``count`` dimensions, from one number or a list; None for all else."""
    if isinstance(value, tuple):
        found = tuple(v for v in value if isinstance(v, int))
        if len(found) != len(value):
            return None
        return found * count if len(found) == 1 else found if len(found) == count else None
    return (value,) * count if isinstance(value, int) else None


def with_item(values: tuple[Argument, ...], place: int, value: Argument) -> tuple[Argument, ...]:
    """``values`` with one of them replaced."""
    return (*values[:place], value, *values[place + 1 :])


Arguments = tuple[tuple[Argument, ...], tuple[tuple[str, Argument], ...]]


def replaced(query: Query, position: int, name: str, value: Argument) -> Arguments | None:
    """The node's arguments with one of them replaced; None where it was left to its default."""
    args, kwargs = query.node.args, query.node.kwargs
    if position < len(args):
        return with_item(args, position, value), kwargs
    if any(key == name for key, _ in kwargs):
        return args, tuple((key, value if key == name else old) for key, old in kwargs)
    return None


Rule = Callable[[Query], Flow | None]
"""Gives the flow, or None where slicing this output at this dimension is not legal."""

_RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops by full name (``aten.add.Tensor``) or by packet (``aten.add``)."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in _RULES:
                raise ValueError(f"two dimension rules for {op}")
            _RULES[op] = function
        return function

    return register


def find_rule(op: str) -> Rule | None:
    """The rule for an op's full name: its own, else its packet's, else None."""
    return _RULES.get(op) or _RULES.get(op.rpartition(".")[0])


def known_ops() -> tuple[str, ...]:
    """Every name that has a rule, sorted."""
    return tuple(sorted(_RULES))
