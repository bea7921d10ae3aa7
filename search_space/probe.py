"""The probe: what slicing does to an op, found out by running it on small random data.

It is the rule of last resort for ops without a rule (:class:`Prober`), and the oracle against which
the tests hold every rule (:func:`verify`). It answers only what sliced execution confirms.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from math import lcm, prod
from typing import Any

import torch

from search_space.dim_rules import Flow, Query, Slice
from search_space.graph import Affine, Argument, Path, Ref, Tensor, TorchConstant, walk_arguments
from search_space.torch_ops import torch_op, torch_value, without_autocast

log = logging.getLogger("autochunk")

_MOST_ELEMENTS = 1 << 20
"""Tensors larger than this are not made: the sizes are scaled down instead."""

_MOST_TRIES = 64

_WIDE = 97
"""Integers are drawn below this where they need not be indices."""


def verify(
    query: Query,
    flow: Flow,
    *,
    chunks: tuple[int, ...] = (),
    seed: int = 0,
    wide: bool = False,
) -> bool:
    """Whether the op, run slice by slice as ``flow`` says, gives what it gives whole.

    Args:
        chunks: chunk sizes in positions of the output's dimension; by default 1, about a third, and
            all but one, moved up to what ratios below one allow.
        wide: draw integers that are too large for indices of most dimensions.
    """
    size = query.shape[query.dim]
    shapes = {ref: query.tensor(ref) for _, ref in query.node.refs}
    if flow.args is not None or flow.kwargs is not None:
        for _, value in walk_arguments(flow.args or (), flow.kwargs or ()):
            if isinstance(value, Ref):
                shapes.setdefault(value.index, query.tensor(value.index))
    tensors = _draw(shapes, seed, wide)
    whole = _parts(_call(query.node.op, query.node.args, query.node.kwargs, tensors))
    step = lcm(flow.step, *(wanted.ratio.denominator for _, wanted in flow.slices))
    wanted_chunks = chunks or (1, max(1, size // 3), max(1, size - 1))
    for chunk in dict.fromkeys(-(-c // step) * step for c in wanted_chunks):
        made: list[list[torch.Tensor]] = []
        for start in range(0, size, chunk):
            made.append(_parts(_sliced(query, flow, tensors, start, min(chunk, size - start))))
        for place, expected in enumerate(whole):
            found = torch.cat([parts[place] for parts in made], query.dim)
            if not _equal(found, expected):
                return False
    return True


def _sliced(
    query: Query, flow: Flow, tensors: Mapping[int, torch.Tensor], start: int, length: int
) -> Any:
    """The op on one slice of its output."""
    slices = dict(flow.slices)

    def cut(path: Path, value: torch.Tensor) -> torch.Tensor:
        wanted = slices.get(path)
        if wanted is None:
            return value
        first, count = start * wanted.ratio, length * wanted.ratio
        if first.denominator != 1 or count.denominator != 1:
            raise ValueError("a slice would start between positions")
        return value.narrow(wanted.dim, int(first), int(count))

    args = query.node.args if flow.args is None else flow.args
    kwargs = query.node.kwargs if flow.kwargs is None else flow.kwargs
    return _call(flow.op or query.node.op, args, kwargs, tensors, cut, start, length)


def _call(
    op: str,
    args: tuple[Argument, ...],
    kwargs: tuple[tuple[str, Argument], ...],
    tensors: Mapping[int, torch.Tensor],
    cut: Any = lambda path, value: value,
    start: int = 0,
    length: int = 0,
) -> Any:
    def fill(value: Argument, path: Path) -> Any:
        if isinstance(value, tuple):
            return [fill(item, (*path, k)) for k, item in enumerate(value)]
        if isinstance(value, Ref):
            return cut(path, tensors[value.index])
        if isinstance(value, Affine):
            return value.value(start, length)
        if isinstance(value, TorchConstant):
            return torch.device("cpu") if value.kind == "device" else torch_value(value)
        return value

    with torch.no_grad():
        return torch_op(op)(
            *(fill(value, (place,)) for place, value in enumerate(args)),
            **{name: fill(value, (name,)) for name, value in kwargs},
        )


def _parts(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _least(tensors: Iterable[Tensor]) -> int:
    """The smallest extent of all, below which integers are indices of any dimension."""
    return max(min((min(t.shape, default=1) for t in tensors), default=1), 1)


def _draw(tensors: Mapping[int, Tensor], seed: int, wide: bool) -> dict[int, torch.Tensor]:
    """Random tensors of these shapes and dtypes; integers are small enough to be indices, or drawn
    from a wide range."""
    generator = torch.Generator().manual_seed(seed)
    below = _WIDE if wide else _least(tensors.values())
    found = {}
    for index, tensor in tensors.items():
        dtype: torch.dtype = getattr(torch, tensor.dtype)
        if dtype is torch.bool:
            made = torch.rand(tensor.shape, generator=generator) < 0.5
        elif dtype.is_complex:
            made = torch.randn(tensor.shape, generator=generator, dtype=torch.complex64).to(dtype)
        elif dtype.is_floating_point:
            made = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(dtype)
        else:
            made = torch.randint(0, below, tensor.shape, generator=generator, dtype=dtype)
        found[index] = made
    return found


def _equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not (expected.dtype.is_floating_point or expected.dtype.is_complex):
        return torch.equal(found, expected)
    wide = torch.promote_types(expected.dtype, torch.float32)
    narrow = expected.dtype.is_floating_point and expected.dtype.itemsize < 4
    slack = 3e-2 if narrow else 1e-5
    return torch.allclose(found.to(wide), expected.to(wide), rtol=slack, atol=slack, equal_nan=True)


class Prober:
    """Finds flows of unknown ops by trying them; answers are kept by signature.

    Only flows that slice arguments position by position and leave the op's own arguments unchanged
    are tried. Whatever cannot be run or confirmed has none.
    """

    def __init__(self) -> None:
        self._known: dict[object, Flow | None] = {}

    def __call__(self, query: Query) -> Flow | None:
        """The flow of ``query``'s node, or None where no sliced execution gives the same result."""
        key = (
            query.node.op, repr(query.node.args), query.node.kwargs, query.dim, query.shape,
            tuple((query.tensor(ref).shape, query.tensor(ref).dtype) for _, ref in query.node.refs),
        )  # fmt: skip
        if key not in self._known:
            self._known[key] = self._find(query)
        return self._known[key]

    def _find(self, query: Query) -> Flow | None:
        small = _shrink(query)
        if small is None:
            return None
        with without_autocast():
            return self._tried(small)

    @staticmethod
    def _tried(query: Query) -> Flow | None:
        draws = _draws(query)
        for flow in itertools.islice(_options(query), _MOST_TRIES) if draws else ():
            try:
                if all(verify(query, flow, seed=seed, wide=wide) for seed, wide in draws):
                    return flow
            except Exception as error:  # the op's own complaint: this slicing is not its way
                log.debug("autochunk: probe of %s: %s", query.node.op, error)
        return None


def _draws(query: Query) -> tuple[tuple[int, bool], ...]:
    """Which data an op is tried on, as seeds and whether integers are wide: two draws of each,
    since what holds by chance for one seldom does for the other. None where no data would tell
    much.

    Small integers, which indices have to be, are all 0 where a dimension has one position, and an
    op that moves them about would look like one that leaves them where they are. So those are tried
    wide as well, unless the op refuses that, or is none of torch's own: such may read what lies
    there.
    """
    tensors = {ref: query.tensor(ref) for _, ref in query.node.refs}
    narrow = ((0, False), (1, False))
    if not any(_is_integer(tensor) for tensor in tensors.values()):
        return narrow
    node = query.node
    if node.op.startswith("aten."):
        try:
            _call(node.op, node.args, node.kwargs, _draw(tensors, 0, True))
        except Exception as error:
            log.debug("autochunk: %s takes its integers for indices: %s", node.op, error)
        else:
            return (*narrow, (0, True), (1, True))
    return narrow if _least(tensors.values()) > 2 else ()


def _is_integer(tensor: Tensor) -> bool:
    dtype: torch.dtype = getattr(torch, tensor.dtype)
    return dtype is not torch.bool and not (dtype.is_floating_point or dtype.is_complex)


def _options(query: Query) -> Iterator[Flow]:
    """Ways to slice the arguments, those that slice most of them first."""
    size = query.shape[query.dim]
    choices: list[list[tuple[Path, Slice] | None]] = []
    for path, ref in query.node.refs:
        shape = query.tensor(ref).shape
        # a dimension counted from the right, as broadcasting does, is the likeliest
        aligned = query.dim - query.rank + len(shape)
        dims = sorted(range(len(shape)), key=lambda d: (d != aligned, d))
        ways: list[tuple[Path, Slice] | None] = [
            (path, Slice(dim)) for dim in dims if shape[dim] == size
        ]
        choices.append([*ways, None])
    found = [
        tuple(way for way in ways if way is not None)
        for ways in itertools.islice(itertools.product(*choices), 4096)
    ]
    for slices in sorted(found, key=len, reverse=True):
        if slices:
            yield Flow(slices)


def _shrink(query: Query) -> Query | None:
    """The query at sizes small enough to run, equal sizes staying equal; None where arguments name
    sizes that would have to shrink as well."""
    from dataclasses import replace

    indices = [query.node.index, *(ref for _, ref in query.node.refs)]
    tensors = [t for index in indices for t in query.graph.nodes[index].outputs]
    if sum(prod(t.shape) for t in tensors) <= _MOST_ELEMENTS:
        return query
    sizes = sorted({size for t in tensors for size in t.shape if size > 12})
    if len(sizes) > 8:
        return None
    small = {size: 13 + 2 * place for place, size in enumerate(sizes)}
    named = {
        value
        for _, value in walk_arguments(query.node.args, query.node.kwargs)
        if isinstance(value, int) and not isinstance(value, bool)
    }
    if named & set(small):
        return None
    nodes = list(query.graph.nodes)
    for index in set(indices):
        outputs = []
        for tensor in nodes[index].outputs:
            shape = tuple(small.get(size, size) for size in tensor.shape)
            strides, step = [], 1
            for size in reversed(shape):
                strides.append(step)
                step *= size
            outputs.append(replace(tensor, shape=shape, strides=tuple(reversed(strides))))
        nodes[index] = replace(nodes[index], outputs=tuple(outputs))
    graph = replace(query.graph, nodes=tuple(nodes))
    return Query(graph, nodes[query.node.index], query.dim)
