"""Workspaces of elementwise composites, selections, counts and resampling, held against the
allocator in several layouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.search_space.test_workspace_kernels import LAYOUTS, Args, check, filled, laid_out, normal

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="kernels of another build"
)
X = (8, 64, 48)
Case = tuple[str, Args, dict[str, Any]]


def exact_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Calls told exactly, whose first tensor ``(8, 64, 48)`` is put in; None stands for it."""
    y = normal(*X, dtype=dtype)
    places = y.argsort(1)
    for dims in ([1], [1, 2], [0, 1, 2], []):
        yield "roll.default", (None, [3] * max(len(dims), 1), dims), {}
    yield "isclose.default", (None, y), {}
    yield "isclose.default", (None, y[:1]), {}
    yield "log_sigmoid.default", (None,), {}
    yield "float_power.Tensor_Scalar", (None, 2.0), {}
    yield "float_power.Tensor_Tensor", (None, y), {}
    yield "ldexp.Tensor", (None, y), {}
    yield "pairwise_distance.default", (None, y), {}
    yield "dist.default", (None, y), {}
    yield "rrelu.default", (None,), {}
    yield "scatter_reduce.two", (None, 1, places, y, "mean"), {}
    yield "index_reduce.default", (None, 1, torch.arange(64), y, "mean"), {}
    yield "index_reduce.default", (None, 1, torch.arange(64), y, "amax"), {}
    repeats = torch.tensor([1] * 60 + [2] * 4)
    yield "repeat_interleave.self_Tensor", (None, repeats, 1), {"output_size": 68}
    for dim in (1, -1):
        for name in ("median.dim", "nanmedian.dim"):
            yield name, (None, dim), {}
        yield "kthvalue.default", (None, 3, dim), {}
        yield "_safe_softmax.default", (None, dim), {}
        yield "nanmean.default", (None, [dim]), {}
        yield "count_nonzero.dim_IntList", (None, [dim]), {}
        yield "count_nonzero.default", (None, dim), {}
    yield "median.default", (None,), {}
    yield "nanmean.default", (None,), {}
    yield "count_nonzero.default", (None,), {}
    yield "msort.default", (None,), {}
    for order in (1, 2, 3):
        yield "diff.default", (None, order, 1), {}
    yield "diff.default", (None, 1, 1, y[:, :1]), {}
    yield "cumsum.default", (None, 1), {"dtype": torch.float64}
    yield "channel_shuffle.default", (None, 4), {}
    yield "adaptive_max_pool2d.default", (None, [4, 4]), {}
    yield "aminmax.default", (None,), {}


def _parameters(dtype: torch.dtype) -> list[Any]:
    return [
        pytest.param(k, dtype, layout, id=f"{case[0]}-{k}-{layout}-{dtype}".replace("torch.", ""))
        for k, case in enumerate(exact_cases(dtype))
        for layout in (LAYOUTS if dtype is torch.float32 else LAYOUTS[:2])
    ]


@pytest.mark.parametrize(
    ("place", "dtype", "layout"), [*_parameters(torch.float32), *_parameters(torch.bfloat16)]
)
def test_composites_are_told(place: int, dtype: torch.dtype, layout: str) -> None:
    name, args, kwargs = list(exact_cases(dtype))[place]
    check(f"aten.{name}", filled(args, laid_out(normal(*X, dtype=dtype), layout)), kwargs, 1.03)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_quantiles_are_bounded(layout: str) -> None:
    x = laid_out(normal(*X), layout)
    for dim in (1, -1, None):
        for name in ("quantile", "nanquantile"):
            check(f"aten.{name}.scalar", (x, 0.3, dim), {}, 1.1)
    check("aten.quantile.default", (x, torch.linspace(0, 1, 20), 1), {}, 1.2)


@pytest.mark.parametrize("tests", [5, 50, 2000, 50_000])
@pytest.mark.parametrize("is_unique", [False, True])
def test_membership_is_told(tests: int, is_unique: bool) -> None:
    for layout in LAYOUTS:
        x = laid_out(torch.arange(8.0 * 64 * 48).reshape(X), layout)
        args = (x, torch.arange(0.0, tests))
        check("aten.isin.Tensor_Tensor", args, {"assume_unique": is_unique}, 1.03)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sorted_sequences_and_values_are_copied(layout: str) -> None:
    x = laid_out(normal(*X), layout)
    check("aten.searchsorted.Tensor", (normal(1, 100)[0].sort()[0], x), {}, 1.03)
    ordered = laid_out(normal(*X).sort()[0], layout)
    check("aten.searchsorted.Tensor", (ordered, normal(8, 64, 20)), {}, 1.03)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64])
def test_integers_are_cast_to_be_added_up(dtype: torch.dtype) -> None:
    for layout in LAYOUTS:
        x = laid_out(normal(*X) * 10, layout).to(dtype)
        for name in ("cumsum", "cumprod"):
            check(f"aten.{name}.default", (x, 1), {}, 1.03)
        check("aten.count_nonzero.dim_IntList", (x, [1]), {}, 1.03)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_small_composites_are_bounded(layout: str) -> None:
    x, y = laid_out(normal(*X), layout), normal(*X)
    check("aten.trapezoid.dx", (x,), {}, 1.5)
    check("aten.trapezoid.x", (x, y), {}, 1.1)
    check("aten.cumulative_trapezoid.dx", (x,), {}, 1.03)
    check("aten.cumulative_trapezoid.x", (x, y), {}, 1.5)
    check("aten.histc.default", (x, 10), {}, 1.1)
    check("aten.vander.default", (x[0, 0],), {}, 1.03)
    check("aten.special_multigammaln.default", (x.abs() + 3, 3), {}, 1.03)
    check("aten.pdist.default", (x[0],), {}, 1.03)


# -- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [*LAYOUTS, "channels last"])
def test_images_are_resized_by_cubics(layout: str, dtype: torch.dtype) -> None:
    for scale in (2.0, 0.5):
        x = laid_out(normal(2, 8, 16, 24, dtype=dtype), layout)
        check("aten.upsample_bicubic2d.vec", (x, None, False, [scale, scale]), {}, 1.03)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_become_an_image(layout: str) -> None:
    for kernel, padding in ((3, 0), (3, 1), (2, 0), (1, 0)):
        side = 10 + 2 * padding - kernel + 1
        x = laid_out(normal(4, 4 * kernel**2, side**2), layout)
        sizes = ([10, 10], *([value] * 2 for value in (kernel, 1, padding, 1)))
        check("aten.col2im.default", (x, *sizes), {}, 1.03)


@pytest.mark.parametrize("align", [False, True])
def test_affine_grids_are_told(align: bool) -> None:
    args = (normal(8, 2, 3), [8, 3, 32, 32], align)
    check("aten.affine_grid_generator.default", args, {}, 1.03)
    args = (normal(2, 3, 4), [2, 3, 8, 16, 16], align)
    check("aten.affine_grid_generator.default", args, {}, 1.03)
