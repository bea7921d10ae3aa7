"""Workspaces of single kernels against the allocator: several layouts, shapes and dtypes.

The allocator's peak of one call is held against its output and the predicted workspace: told within
3 %, or bounded from above within a factor.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from search_space.graph import Argument
from search_space.layout import Layout
from search_space.processor import is_plain
from search_space.torch_ops import torch_op
from search_space.workspace import Call, Operand, workspace_bytes
from tuner.measure.cpu import CpuBackend

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="kernels of another build"
)
LAYOUTS = ("row-major", "transposed", "sliced rows", "swapped", "sliced batch")
Args = tuple[Any, ...]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The tensor in another layout, as views and slices leave it."""
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "swapped":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout.startswith("sliced"):
        dim = -2 if layout == "sliced rows" else 1
        return torch.cat((x, x), dim).narrow(dim, 0, x.shape[dim])
    return x


def measured_and_predicted(op: str, args: Args, kwargs: dict[str, Any]) -> tuple[int, int]:
    """Peak bytes of a call, by the allocator and by the model."""
    function: Any = torch_op(op)
    with torch.no_grad():
        function(*args, **kwargs)  # the first call sets things up
        result, peak = CpuBackend().peak(lambda: function(*args, **kwargs))
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    given = {x.untyped_storage().data_ptr() for x in tensors}
    made = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
    output = sum(x.nbytes for x in made if x.untyped_storage().data_ptr() not in given)
    operands = tuple(
        Operand(
            k,
            Layout(tuple(x.shape), tuple(x.stride())),
            str(x.dtype).removeprefix("torch."),
            isinstance(x, torch.nn.Parameter),
        )
        for k, x in enumerate(tensors)
    )
    call = Call(
        operands, tuple(plain(value) for value in args), tuple(made[0].shape),
        str(made[0].dtype).removeprefix("torch."), "cpu",
        tuple((name, plain(value)) for name, value in kwargs.items()),
    )  # fmt: skip
    elementwise = torch.Tag.pointwise in function.tags
    return peak.activation_bytes, output + workspace_bytes(op, call, elementwise=elementwise)


def plain(value: Any) -> Argument:
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    return value if isinstance(value, (bool, int, float, str)) else None


def check(op: str, args: Args, kwargs: dict[str, Any], within: float) -> None:
    measured, predicted = measured_and_predicted(op, args, kwargs)
    assert predicted >= 0.97 * measured - 256, (measured, predicted)
    assert predicted <= within * measured + 1024, (measured, predicted)


X = (4, 256, 192)
IMAGE = (2, 32, 32, 48)


def sequence_cases(dtype: torch.dtype) -> Iterator[tuple[str, Args, dict[str, Any]]]:
    """Calls whose first tensor ``(4, 256, 192)`` is put in; None stands for it."""

    def n(*shape: int) -> torch.Tensor:
        return normal(*shape, dtype=dtype)

    places = torch.arange(64)[None, :, None].expand(4, 64, 192).contiguous()
    for dim in (-1, 1):
        for name in ("softmax.int", "log_softmax.int", "cumsum.default", "cumprod.default",
                     "argsort.default", "sort.default", "max.dim", "argmax.default",
                     "any.dim"):  # fmt: skip
            yield name, (None, dim), {}
        for name in ("mean.dim", "sum.dim_IntList", "amax.default", "logsumexp.default"):
            yield name, (None, [dim]), {}
        for name in ("var.correction", "std.correction"):
            yield name, (None, [dim]), {"correction": 0}
        yield "topk.default", (None, 8, dim), {}
        yield "linalg_vector_norm.default", (None, 2, [dim]), {}
    yield "softmax.int", (None, -1, torch.float32), {}
    yield "layer_norm.default", (None, [192], n(192), n(192)), {}
    yield "native_layer_norm.default", (None, [192], n(192), n(192), 1e-5), {}
    yield "rms_norm.default", (None, [192], n(192)), {}
    yield "_fused_rms_norm.default", (None, [192], n(192), 1e-5), {}
    yield "group_norm.default", (None, 8, n(256), n(256)), {}
    yield "instance_norm.default", (None, None, None, None, None, True, 0.1, 1e-5, False), {}
    statistics = (n(256), n(256), n(256), n(256).abs())
    yield "batch_norm.default", (None, *statistics, False, 0.1, 1e-5, False), {}
    for name in ("gelu.default", "silu.default", "glu.default", "tanh.default", "clone.default",
                 "contiguous.default", "tril.default", "diff.default"):  # fmt: skip
        yield name, (None,), {}
    yield "gelu.default", (None,), {"approximate": "tanh"}
    yield "masked_fill.Scalar", (None, normal(4, 1, 192) > 0, 1.0), {}
    yield "where.self", (normal(256, 1) > 0, None, n(4, 1, 192)), {}
    yield "cat.default", ([None, n(4, 256, 64)], -1), {}
    yield "stack.default", ([None, None], 1), {}
    yield "constant_pad_nd.default", (None, [1, 1, 2, 2]), {}
    yield "pad.default", (None, [1, 1]), {}
    yield "roll.default", (None, [2], [1]), {}
    yield "repeat.default", (None, [1, 2, 1]), {}
    yield "index.Tensor", (None, [None, torch.arange(128)]), {}
    yield "index_select.default", (None, 1, torch.arange(100)), {}
    yield "gather.default", (None, 1, places), {}
    yield "take_along_dim.default", (None, places[:1, :, :1], 1), {}
    yield "index_put.default", (None, [None, torch.arange(64)], n(64, 192)), {}
    yield "cosine_similarity.default", (None, n(1, 256, 192), -1), {}
    yield "linear.default", (None, torch.nn.Parameter(n(64, 192)), torch.nn.Parameter(n(64))), {}
    yield "matmul.default", (None, n(4, 192, 64)), {}
    yield "matmul.default", (None, n(192, 64)), {}
    yield "bmm.default", (None, n(4, 192, 64)), {}
    yield "baddbmm.default", (n(1, 1, 64), None, n(4, 192, 64)), {}
    for equation, other in (
        ("bik,bjk->bij", n(4, 64, 192)), ("bki,bkj->bij", n(4, 256, 64)),
        ("bik,jk->bij", n(64, 192)), ("bik,bik->bk", n(*X)),
    ):  # fmt: skip
        yield "einsum.default", (equation, [None, other]), {}


def filled(value: Any, x: torch.Tensor) -> Any:
    """``value`` with the first tensor put where an argument list says None first."""
    done = False

    def visit(item: Any) -> Any:
        nonlocal done
        if item is None and not done:
            done = True
            return x
        if isinstance(item, (list, tuple)):
            return type(item)(visit(one) for one in item)
        return item

    return visit(value)


def _names(dtype: torch.dtype) -> list[Any]:
    cases = list(sequence_cases(dtype))
    return [
        pytest.param(k, dtype, layout, id=f"{case[0]}-{k}-{layout}-{dtype}".replace("torch.", ""))
        for k, case in enumerate(cases)
        for layout in (LAYOUTS if dtype is torch.float32 else LAYOUTS[:3])
    ]


BOUNDED = {"take_along_dim", "einsum", "matmul", "bmm", "baddbmm", "linear", "stack"}
"""In half precision these are bounded, since what a library packs is not told exactly."""


@pytest.mark.parametrize(
    ("place", "dtype", "layout"), [*_names(torch.float32), *_names(torch.bfloat16)]
)
def test_ops_on_sequences(place: int, dtype: torch.dtype, layout: str) -> None:
    name, args, kwargs = list(sequence_cases(dtype))[place]
    x = laid_out(normal(*X, dtype=dtype), layout)
    if name.startswith("stack"):
        args = ([x, x], 1)
    within = 1.03
    if dtype is torch.bfloat16 and name.partition(".")[0] in BOUNDED:
        within = 1.8
    check(f"aten.{name}", filled(args, x), kwargs, within)


IMAGE_CASES: tuple[tuple[str, Args], ...] = (
    ("group_norm.default", (8,)),
    ("upsample_nearest2d.vec", (None, [2.0, 2.0])),
    ("upsample_bilinear2d.vec", ([64, 96], False, None)),
    ("avg_pool2d.default", ([2, 2],)),
    ("max_pool2d.default", ([2, 2],)),
    ("max_pool2d_with_indices.default", ([2, 2],)),
    ("adaptive_avg_pool2d.default", ([7, 7],)),
    ("pixel_shuffle.default", (2,)),
    ("pixel_unshuffle.default", (2,)),
    ("reflection_pad2d.default", ([1, 1, 1, 1],)),
    ("im2col.default", ([3, 3], [1, 1], [1, 1], [1, 1])),
    ("softmax.int", (1,)),
    ("mean.dim", ([1],)),
)


@pytest.mark.parametrize("layout", [*LAYOUTS, "channels last"])
@pytest.mark.parametrize("case", IMAGE_CASES, ids=lambda case: case[0])
def test_ops_on_images(case: tuple[str, Args], layout: str) -> None:
    name, args = case
    check(f"aten.{name}", (laid_out(normal(*IMAGE), layout), *args), {}, 1.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [*LAYOUTS, "channels last", "sequence"])
@pytest.mark.parametrize("op", ["upsample_nearest2d.vec", "upsample_bilinear2d.vec"])
def test_images_of_any_size_are_resized(op: str, layout: str, dtype: torch.dtype) -> None:
    for batch, channels, side, scale in (
        (2, 32, 16, 2.0), (1, 32, 32, 2.0), (1, 32, 48, 2.0), (3, 2, 40, 2.0), (1, 1, 16, 3.0),
    ):  # fmt: skip
        if layout == "sequence":  # an image made of a sequence, as after attention
            x = normal(batch, side * side, channels, dtype=dtype).mT
            x = x.view(batch, channels, side, side)
        else:
            x = laid_out(normal(batch, channels, side, side, dtype=dtype), layout)
        align = (False,) if "bilinear" in op else ()
        check(f"aten.{op}", (x, None, *align, [scale, scale]), {}, 1.03)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("equation", "other"),
    [
        ("bhik,bhjk->bhij", (2, 32, 32, 48)),
        ("bhik,bijk->bhij", (2, 32, 20, 48)),
        ("bikc,bjkc->bijc", (2, 20, 32, 48)),
        ("...ikc,...jkc->...ijc", (2, 20, 32, 48)),
    ],
)
def test_einsum_copies_what_it_cannot_fold(
    equation: str, other: tuple[int, ...], layout: str
) -> None:
    operands = [laid_out(normal(*IMAGE), layout), normal(*other)]
    check("aten.einsum.default", (equation, operands), {}, 1.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_expanded_operands(dtype: torch.dtype) -> None:
    repeated = normal(1, 256, 192, dtype=dtype).expand(*X)
    within = 1.03 if dtype is torch.float32 else 1.3
    check("aten.bmm.default", (repeated, normal(4, 192, 64, dtype=dtype)), {}, within)
    check("aten.matmul.default", (repeated, normal(192, 64, dtype=dtype)), {}, within)
    weight = torch.nn.Parameter(normal(64, 192, dtype=dtype))
    check("aten.linear.default", (repeated, weight), {}, within)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("left", "right"),
    [((64, 256), X), ((1024, 256), X), ((1, 256), X), ((256,), X), ((4, 64, 256), X),
     (X, (192, 64)), (X, (192,)), (X, (4, 192, 64))],
)  # fmt: skip
def test_products_with_what_may_take_a_gradient(
    left: tuple[int, ...], right: tuple[int, ...], dtype: torch.dtype, layout: str
) -> None:
    args = [
        laid_out(normal(*X, dtype=dtype), layout) if shape is X
        else torch.nn.Parameter(normal(*shape, dtype=dtype))
        for shape in (left, right)
    ]  # fmt: skip
    # (in half precision loose where a vector is multiplied: results are small beside the bound)
    check("aten.matmul.default", tuple(args), {}, 1.03 if dtype is torch.float32 else 13.0)


@pytest.mark.parametrize("rows", [10, 100])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_distances(rows: int, power: float) -> None:
    for layout in LAYOUTS:
        x = laid_out(normal(4, 20, 192), layout)
        check("aten.cdist.default", (x, normal(4, rows, 192), power), {}, 1.05)


# -- convolutions --------------------------------------------------------------------------------

BLOCKS_OF_16 = not is_plain("bfloat16")
"""Whether oneDNN fills blocks of 16 channels, as with AVX-512. Elsewhere it fills smaller ones, and
what is told is a bound from above."""


def check_blocks(args: Args, within: float) -> None:
    check("aten.conv2d.default", args, {}, within if BLOCKS_OF_16 else 20.0)



def drawn_convolution(
    draw: random.Random, dtype: torch.dtype, *, grouped: bool, transposed: bool
) -> tuple[str, Args]:
    """A convolution of random sizes, in a random layout."""
    rank = draw.choice((1, 2, 2, 2, 3))
    groups = draw.choice((2, 3, 16, 32)) if grouped else 1
    channels = groups * draw.choice((1, 2, 8)) if grouped else draw.choice((3, 4, 16, 40, 64, 128))
    features = groups * draw.choice((1, 2)) if grouped else draw.choice((3, 16, 24, 64, 96))
    kernel = draw.choice((1, 3) if rank == 3 else (1, 1, 3, 3, 4, 7))
    side = draw.choice(((200, 1000), (16, 31, 64), (8, 12))[rank - 1])
    x = normal(draw.choice((1, 1, 2, 4)), channels, *(side,) * rank, dtype=dtype)
    x = laid_out(x, draw.choice(LAYOUTS))
    shape = (channels, features // groups) if transposed else (features, channels // groups)
    weight = normal(*shape, *(kernel,) * rank, dtype=dtype)
    bias = normal(features, dtype=dtype) if draw.random() < 0.5 else None
    stride, padding = draw.choice((1, 1, 1, 2)), draw.choice((0, kernel // 2))
    args = (x, weight, bias, [stride] * rank, [padding] * rank)
    if transposed:
        name = f"conv_transpose{rank}d.{'default' if rank == 1 else 'input'}"
        return f"aten.{name}", (*args, [0] * rank, groups)
    return f"aten.conv{rank}d.default", (*args, [1] * rank, groups)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_are_bounded_from_above(
    grouped: bool, transposed: bool, dtype: torch.dtype
) -> None:
    draw = random.Random(7)
    ratios = []
    for _ in range(40):
        op, args = drawn_convolution(draw, dtype, grouped=grouped, transposed=transposed)
        measured, predicted = measured_and_predicted(op, args, {})
        shapes = [tuple(x.shape) for x in args[:2]], args[3:]
        assert predicted >= 0.97 * measured - 256, (op, shapes, measured, predicted)
        ratios.append(predicted / measured)
    ratios.sort()
    told = dtype is torch.float32 and not grouped and not transposed and BLOCKS_OF_16
    # plain ones are told; the others are bounds, loose where tensors are small
    assert ratios[len(ratios) // 2] <= (1.01 if told else 8.0), ratios
    assert not told or ratios[int(0.9 * len(ratios))] <= 1.05, ratios


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("channels", [96, 192, 320])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_of_image_models_are_told(batch: int, channels: int, kernel: int) -> None:
    x = normal(batch, channels, 32, 32)
    weight = normal(2 * channels, channels, kernel, kernel)
    args = (x, weight, normal(2 * channels), [1, 1], [kernel // 2] * 2)
    check("aten.conv2d.default", args, {}, 1.03)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("batch", [1, 2])
def test_depthwise_convolutions_are_told(batch: int, kernel: int) -> None:
    x, weight = normal(batch, 96, 56, 56), normal(96, 1, kernel, kernel)
    args = (x, weight, normal(96), [1, 1], [kernel // 2] * 2, [1, 1], 96)
    check("aten.conv2d.default", args, {}, 1.03)


@pytest.mark.parametrize("channels", [4, 20, 96])
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolutions_of_channels_last_images_are_told(
    channels: int, kernel: int, stride: int
) -> None:
    for batch, side in ((1, 16), (2, 56)):
        x = laid_out(normal(batch, channels, side, side), "channels last")
        weight = normal(channels, 1, kernel, kernel)
        args = (x, weight, normal(channels), [stride] * 2, [kernel // 2] * 2, [1, 1], channels)
        check_blocks(args, 1.03)


@pytest.mark.parametrize("side", [8, 32, 128])
@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
def test_one_channel_cut_out_of_a_channels_last_image_is_bounded(kernel: int, side: int) -> None:
    """As a depthwise convolution run channel by channel reads it."""
    image = normal(2, 8, side, side).contiguous(memory_format=torch.channels_last)
    args = (image[:, 3:4], normal(1, 1, kernel, kernel), normal(1), [1, 1], [kernel // 2] * 2)
    check_blocks(args, 4.0)
