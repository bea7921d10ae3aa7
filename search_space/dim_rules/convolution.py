"""Convolutions: batches, output channels, groups, and positions that no window shares.

Shapes: input ``(N, C, positions...)`` or ``(C, positions...)``; weight ``(C_out, C / groups,
kernel...)``, of transposed ones ``(C, C_out / groups, kernel...)``; bias ``(C_out)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from search_space.dim_rules.base import Flow, Query, Slice, repeated, replaced, rule
from search_space.graph import Affine, Path
from search_space.processor import HalfKernels, half_kernels


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a convolution's arguments stand (None: it has none such), and its kind."""

    positions: int
    stride: int = 3
    padding: int = 4
    dilation: int = 5
    groups: int = 6
    output_padding: int | None = None
    transposed: bool = False


_CONVOLUTIONS = {
    **{f"aten.conv{n}d.{name}": _Places(n) for n in (1, 2, 3) for name in ("default", "padding")},
    **{
        f"aten.conv_transpose{n}d.{name}": _Places(
            n, output_padding=5, groups=6, dilation=7, transposed=True
        )
        for n, name in ((1, "default"), (2, "input"), (3, "input"))
    },
}


@rule(*_CONVOLUTIONS)
def convolution(query: Query) -> Flow | None:
    """Batches slice the input; output channels slice weight and bias."""
    return _convolution(query, _CONVOLUTIONS[query.node.op])


@rule("aten.convolution")
def general_convolution(query: Query) -> Flow | None:
    """The one op behind all of them, with arguments by position."""
    args = query.node.args
    if len(args) != 9 or not isinstance(args[6], bool):
        return None
    weight = query.tensor_at(1)
    if weight is None:
        return None
    places = _Places(len(weight.shape) - 2, groups=8, output_padding=7, transposed=args[6])
    return _convolution(query, places)


def _convolution(query: Query, places: _Places) -> Flow | None:
    source, weight = query.tensor_at(0), query.tensor_at(1)
    if source is None or weight is None or query.node.several:
        return None
    positions = places.positions
    batched = query.rank == positions + 2
    if len(weight.shape) != positions + 2 or query.rank not in (positions + 1, positions + 2):
        return None
    if len(source.shape) != query.rank:
        return None
    if batched and query.dim == 0:
        return Flow((((0,), Slice(0)),))
    channel = 1 if batched else 0
    groups = query.argument(places.groups, "groups", 1)
    if not isinstance(groups, int) or groups < 1:
        return None
    if query.dim == channel:
        return _channels(query, places, channel, groups)
    return _positions(query, places, query.dim - channel - 1)


def _channels(query: Query, places: _Places, channel: int, groups: int) -> Flow | None:
    source, weight = query.tensor_at(0), query.tensor_at(1)
    assert source is not None and weight is not None
    parameters: list[tuple[Path, Slice]] = []
    for path, _ in query.node.refs[1:]:
        is_weight = path in ((1,), ("weight",))
        parameters.append((path, Slice(1 if is_weight and places.transposed else 0)))
    if groups == 1:
        return Flow(tuple(parameters))
    # a chunk of whole groups: their input channels, their weights, and that many groups
    made = query.shape[channel]
    if made % groups or source.shape[channel] % groups:
        return None
    each = made // groups
    ratio = Fraction(source.shape[channel], made)
    slices: list[tuple[Path, Slice]] = [((0,), Slice(channel, ratio))]
    for path, cut in parameters:
        if places.transposed and path in ((1,), ("weight",)):
            cut = Slice(0, ratio)  # its first dimension counts input channels
        slices.append((path, cut))
    changed = replaced(query, places.groups, "groups", Affine(length=1, divisor=each))
    if changed is None:
        return None
    return Flow(tuple(slices), args=changed[0], kwargs=changed[1], step=each)


def _positions(query: Query, places: _Places, place: int) -> Flow | None:
    """A window as wide as its stride shares no position with the next: each position of the output
    has its own of the input (as many as the stride), as in patch embeddings and 1 x 1 kernels."""
    source, weight = query.tensor_at(0), query.tensor_at(1)
    assert source is not None and weight is not None
    if place == places.positions - 1 and _fails_in_one_column(query):
        return None
    padding = query.argument(places.padding, "padding", 0)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        return None
    stride = repeated(query.argument(places.stride, "stride", 1), places.positions)
    pad = repeated(padding, places.positions)
    if stride is None or pad is None:
        return None
    kernel = weight.shape[2 + place]
    dilation = repeated(query.argument(places.dilation, "dilation", 1), places.positions)
    if dilation is None or pad[place] != 0 or (kernel > 1 and dilation[place] != 1):
        return None
    if places.output_padding is not None:
        extra = repeated(
            query.argument(places.output_padding, "output_padding", 0), places.positions
        )
        if extra is None or extra[place] != 0:
            return None
    if kernel != stride[place]:
        return None
    have, made = source.shape[query.dim], query.shape[query.dim]
    ratio = Fraction(1, kernel) if places.transposed else Fraction(kernel)
    if have != made * ratio:
        return None
    return Flow((((0,), Slice(query.dim, ratio)),))


def _fails_in_one_column(query: Query) -> bool:
    """Whether the library's kernel reads memory that nobody wrote where the output is one column
    wide: oneDNN's for matrix units does (3.12, ``brg_conv_fwd:avx10_1_512_amx``; NaN in 29 of 30
    calls where such memory held it), and the last chunk may be that narrow."""
    output = query.node.output
    if not output.device.startswith("cpu") or output.dtype not in ("bfloat16", "float16"):
        return False
    return HalfKernels.TILES in half_kernels(output.dtype)
