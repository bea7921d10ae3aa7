"""Measuring what kinds of op cost on a CPU, for :mod:`cost_models.rates`; some seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cost_models.curve import Curve, value_at
from cost_models.kinds import (
    ADDMM,
    ATTENTION,
    COMPARISON,
    CONVOLUTION,
    LAYER_NORM,
    PLAIN,
    SOFTMAX,
    VIEW,
)
from cost_models.rates import OpRate, Rates
from tuner.measure.fastest import fastest
from tuner.measure.protocol import Backend

Call = Callable[[], Any]

_TINY = (1, 8)
_SQUARE = (256, 256)
"""The tensors on which kinds are timed: no work, and what stays in a core's cache."""

_ROWS = ((1024, 64), (64, 1024))
"""Rows and their length, in two shapes that tell a row's cost from an element's."""

_GATHERED, _APART = (64, 128, 256, 384), 64
"""Sides of square tensors of so many channels, whose last dimension is made the first, as between
channels and positions: with both sides in order, and with neighbours multiples of a page apart."""

_MOVED = tuple(2**exponent for exponent in range(19, 27))
"""Bytes read and written by an op, from a core's cache to far beyond all."""

_KEPT = 2.0**25
"""Ops that read and write no more find their output on pages that they had before."""

_ALIVE, _MOST_ALIVE = 7, 2**27
"""An op in a model finds its argument where the op before has left it, and takes memory that some
ops before have freed: so many tensors are kept alive, of so many bytes at most."""

_SIDES = (1, 4, 8, 16, 32, 64, 256)
_SIDE, _BATCH, _ALONE = 512, 4, 768
"""Narrow sides of products, the length of the others, and that of a matrix alone."""

_QUERIES, _HEADS, _HEAD = (1, 4, 16, 64, 256, 1024), 4, 64
"""Of fused attention, with as many keys as the most queries."""

_CHANNELS, _IMAGES = 64, (2, 4, 8, 16, 32)
"""Of convolutions, and the sides of their images."""

_LEAST = 0.2
"""Of what a run took, at least this share is taken for what is sought."""

_ELEMENTWISE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "log": torch.log,
    "rsqrt": torch.rsqrt,
    "group_norm": lambda x: functional.group_norm(x[None], 1),
    "upsample_bicubic2d": lambda x: functional.interpolate(x[None, None], x.shape, mode="bicubic"),
    "upsample_bilinear2d": lambda x: functional.interpolate(
        x[None, None], x.shape, mode="bilinear"
    ),
    COMPARISON: lambda x: x <= x[:, :1],
    VIEW: lambda x: x.transpose(0, 1),
}

_BY_ROWS: Mapping[str, Callable[[Tensor], Tensor]] = {
    SOFTMAX: lambda x: torch.softmax(x, -1),
    LAYER_NORM: lambda x: functional.layer_norm(x, x.shape[1:], x[0], x[0]),
}


def _positive(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    """Values between 0.5 and 1.5, the same each time: no op meets what it has no answer for."""
    size = torch.Size(shape)
    return (torch.arange(size.numel()) % 97 / 97 + 0.5).to(dtype).reshape(size)


def measure_rates(backend: Backend, dtype: torch.dtype, flops_per_s: float) -> Rates:
    """A CPU's costs by kind of op.

    Args:
        flops_per_s: of large matrix products, to which narrow ones are compared.
    """
    launch = _launches(backend, dtype)
    bench = _Bench(backend, dtype, launch, _bandwidth(backend, dtype, launch[PLAIN]))
    gather, aliased = (_gather(bench, order) for order in ((2, 0, 1), (2, 1, 0)))
    return Rates(
        bench.bandwidth,
        **_narrow(bench, flops_per_s),
        alone=_alone(bench, flops_per_s),
        attention=_attention(bench, flops_per_s),
        convolution=_convolution(bench, gather),
        gather_s=gather[0][1],
        gather=gather,
        aliased=aliased,
        ops={**{kind: OpRate(seconds) for kind, seconds in launch.items()}, **_costs(bench)},
    )


@dataclass(frozen=True)
class _Bench:
    """What is timed, and what is known so far: seconds to start a kind, and memory's rate."""

    backend: Backend
    dtype: torch.dtype
    launch: Mapping[str, float]
    bandwidth: Curve

    def tensor(self, shape: Iterable[int]) -> Tensor:
        return _positive(shape, self.dtype)

    def fastest(self, calls: Mapping[str, tuple[int, Call]]) -> dict[str, float]:
        return fastest(self.backend, calls)

    def beside(self, seconds: float, kind: str, moved: float) -> float:
        """What is left of a time without starting the op and moving its bytes."""
        started = self.launch.get(kind, self.launch[PLAIN])
        return max(seconds - started - moved / value_at(self.bandwidth, moved), 0.0)


def _known(calls: Mapping[str, tuple[int, Call]]) -> dict[str, tuple[int, Call]]:
    """Those that this torch has a kernel for in their dtype; the others are taken for plain ops."""
    found = {}
    for kind, (times, call) in calls.items():
        try:
            call()
        except RuntimeError:
            continue
        found[kind] = (times, call)
    return found


def _bound(
    table: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor, times: int
) -> dict[str, tuple[int, Call]]:
    return _known({kind: (times, partial(function, x)) for kind, function in table.items()})


def _launches(backend: Backend, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of each kind of op on almost no data."""
    x = _positive(_TINY, dtype)
    square = _positive((2, 8, 8), dtype)
    image, weight = _positive((1, 8, 4, 4), dtype), _positive((8, 8, 3, 3), dtype)
    products = {
        CONVOLUTION: lambda: functional.conv2d(image, weight, padding=1),
        "linear": lambda: functional.linear(square, square[0], square[0, 0]),
        "matmul": lambda: square @ square,
        "bmm": lambda: torch.bmm(square, square),
        "baddbmm": lambda: torch.baddbmm(square, square, square),
        ADDMM: lambda: torch.addmm(square[0], square[0], square[0]),
        ATTENTION: lambda: functional.scaled_dot_product_attention(square, square, square),
    }
    calls = {
        PLAIN: (50, lambda: x + 1),
        **_bound(_ELEMENTWISE, x, 50),
        **_bound(_BY_ROWS, x, 50),
        **_known({kind: (50, call) for kind, call in products.items()}),
    }
    return fastest(backend, calls)


def _bandwidth(backend: Backend, dtype: torch.dtype, launch_s: float) -> Curve:
    """Bytes per second of a chain of elementwise ops, by what each reads and writes."""
    points = []
    for moved in _MOVED:
        size = moved // 2
        kept = [_positive((size // dtype.itemsize,), dtype)]
        alive = max(min(_ALIVE, _MOST_ALIVE // size), 2)

        def step(kept: list[Tensor] = kept, alive: int = alive) -> None:
            kept.append(kept[-1] + 1)
            del kept[:-alive]

        for _ in range(alive):
            step()
        seconds = fastest(backend, {"step": (max(2**23 // moved, 2), step)})["step"]
        points.append((float(moved), moved / max(seconds - launch_s, _LEAST * seconds)))
    return tuple(points)


def _costs(bench: _Bench) -> dict[str, OpRate]:
    """What an element costs, and a row, beside starting the op and moving its bytes."""
    moved = 2.0 * bench.tensor(_SQUARE).nbytes
    found = {
        kind: OpRate(bench.launch[kind], bench.beside(seconds, kind, moved) / 2**16)
        for kind, seconds in bench.fastest(
            _bound(_ELEMENTWISE, bench.tensor(_SQUARE), 5)
        ).items()
    }
    short, long = (
        bench.fastest(_bound(_BY_ROWS, bench.tensor(shape), 5)) for shape in _ROWS
    )
    for kind in short:
        (many, _), (few, _) = _ROWS
        row_s = max((short[kind] - long[kind]) / (many - few), 0.0)
        own = bench.beside(long[kind] - few * row_s, kind, moved)
        found[kind] = OpRate(bench.launch[kind], own / 2**16, row_s)
    return found


def _narrow(bench: _Bench, flops_per_s: float) -> dict[str, Curve]:
    """How much longer products take with one narrow side."""
    wide = bench.tensor((_BATCH, _SIDE, _SIDE))
    points: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("rows", "columns", "across", "summed")
    }
    for side in _SIDES:
        tall, flat = bench.tensor((_BATCH, _SIDE, side)), bench.tensor((_BATCH, side, _SIDE))
        timed = bench.fastest({
            "rows": (2, partial(torch.bmm, flat, wide)),
            "columns": (2, partial(torch.bmm, wide, tall)),
            "across": (2, partial(torch.bmm, wide, flat.transpose(1, 2))),
            "summed": (2, partial(torch.bmm, tall, flat)),
        })  # fmt: skip
        least = 2.0 * _BATCH * _SIDE * _SIDE * side / flops_per_s
        narrow, full = tall.nbytes, wide.nbytes
        for name, seconds in timed.items():
            moved = 2 * narrow + full
            spent = max(bench.beside(seconds, "bmm", moved), _LEAST * seconds)
            points[name].append((float(side), max(spent / least, 1.0)))
    return {name: tuple(found) for name, found in points.items()}


def _alone(bench: _Bench, flops_per_s: float) -> Curve:
    """How much longer a product of few rows takes with a single matrix."""
    matrix = bench.tensor((_ALONE, _ALONE))
    rows = [bench.tensor((side, _ALONE)) for side in _SIDES]
    timed = bench.fastest({
        str(place): (2, partial(torch.addmm, matrix[0], one, matrix))
        for place, one in enumerate(rows)
    })  # fmt: skip
    points = []
    for one, seconds in zip(rows, timed.values(), strict=True):
        least = 2.0 * one.numel() * _ALONE / flops_per_s
        own = bench.beside(seconds, ADDMM, 2 * one.nbytes + matrix.nbytes)
        points.append((float(len(one)), max(own, _LEAST * seconds, least) / least))
    return tuple(points)


def _attention(bench: _Bench, flops_per_s: float) -> Curve:
    """How much longer fused attention takes than its products, by how many queries there are."""
    keys = bench.tensor((1, _HEADS, _QUERIES[-1], _HEAD))
    queries = [keys[:, :, :count] for count in _QUERIES]
    timed = bench.fastest({
        str(place): (1, partial(functional.scaled_dot_product_attention, one, keys, keys))
        for place, one in enumerate(queries)
    })  # fmt: skip
    points = []
    for one, seconds in zip(queries, timed.values(), strict=True):
        least = 4.0 * one.numel() * _QUERIES[-1] / flops_per_s
        own = bench.beside(seconds, ATTENTION, 2 * one.nbytes + 2 * keys.nbytes)
        points.append((float(one.shape[2]), max(own, _LEAST * seconds, least) / least))
    return tuple(points)


def _gather(bench: _Bench, order: tuple[int, ...]) -> Curve:
    """Seconds of an element that is read in another order, by the bytes of all of them."""
    tensors = [bench.tensor((side, side, _APART)) for side in _GATHERED]
    moved = [one.permute(order) for one in tensors]
    timed = bench.fastest({
        str(place): (1, partial(torch.empty(one.shape, dtype=one.dtype).copy_, one))
        for place, one in enumerate(moved)
    })  # fmt: skip
    points = []
    for one, seconds in zip(tensors, timed.values(), strict=True):
        # (the output is there already: none of it lies on fresh pages, as what large ops give does)
        moving_s = 2 * one.nbytes / value_at(bench.bandwidth, min(2.0 * one.nbytes, _KEPT))
        points.append((float(one.nbytes), max(seconds - moving_s, _LEAST * seconds) / one.numel()))
    return tuple(points)


def _convolution(bench: _Bench, gather: Curve) -> Curve:
    """Operations per second of convolutions, by how many there are."""
    weight = bench.tensor((_CHANNELS, _CHANNELS, 3, 3))
    gathered_s = value_at(gather, weight.nbytes) * weight.numel()
    images = [bench.tensor((1, _CHANNELS, side, side)) for side in _IMAGES]
    timed = bench.fastest({
        str(place): (2, partial(functional.conv2d, image, weight, padding=1))
        for place, image in enumerate(images)
    })  # fmt: skip
    points = []
    for image, seconds in zip(images, timed.values(), strict=True):
        own = bench.beside(seconds, CONVOLUTION, 2 * image.nbytes + weight.nbytes) - gathered_s
        flops = 2.0 * image.numel() * weight[0].numel()
        points.append((flops, flops / max(own, _LEAST * seconds)))
    return tuple(points)
