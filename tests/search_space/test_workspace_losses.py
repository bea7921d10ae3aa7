"""Workspaces of losses, held against the allocator: kinds of targets, reductions, layouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.search_space.test_workspace_kernels import LAYOUTS, Args, check, laid_out, normal

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="kernels of another build"
)
X = (8, 64, 48)
Case = tuple[str, Args, dict[str, Any]]


def pair_cases(reduction: int, dtype: torch.dtype) -> Iterator[Case]:
    """Losses of two tensors of one shape, told exactly."""
    y = normal(*X, dtype=dtype) + 1
    near, sign = torch.sigmoid(y), y.sign()
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"):
        yield name, (None, y, reduction), {}
    yield "kl_div", (None, y, reduction), {"log_target": True}
    yield "soft_margin_loss", (None, sign, reduction), {}
    yield "margin_ranking_loss", (None, y, sign, 0.0, reduction), {}
    yield "hinge_embedding_loss", (None, sign, 1.0, reduction), {}
    yield "binary_cross_entropy_with_logits", (None, near, None, None, reduction), {}
    weight = torch.ones(48, dtype=dtype)
    yield "binary_cross_entropy_with_logits", (None, near, weight, weight, reduction), {}
    yield "poisson_nll_loss", (None, y, True, False, 1e-8, reduction), {}
    yield "poisson_nll_loss", (None, y, True, True, 1e-8, reduction), {}
    yield "poisson_nll_loss", (None, y, False, False, 1e-8, reduction), {}
    yield "triplet_margin_loss", (None, y, y + 1, 1.0, 2.0, 1e-6, False, reduction), {}
    yield "triplet_margin_loss", (None, y, y + 1, 1.0, 2.0, 1e-6, True, reduction), {}


PAIRS = len(list(pair_cases(0, torch.float32)))


def with_first(args: Args, x: torch.Tensor) -> Args:
    """Other arguments that are None stay."""
    return (x, *args[1:])


@pytest.mark.parametrize("reduction", [0, 1, 2], ids=["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", range(PAIRS))
def test_losses_of_pairs_are_told(place: int, dtype: torch.dtype, reduction: int) -> None:
    name, args, kwargs = list(pair_cases(reduction, dtype))[place]
    for layout in LAYOUTS:
        x = laid_out(normal(*X, dtype=dtype), layout)
        check(f"aten.{name}.default", with_first(args, x), kwargs, 1.05)


@pytest.mark.parametrize("reduction", [0, 1, 2], ids=["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_binary_cross_entropy_is_told(dtype: torch.dtype, reduction: int) -> None:
    near = torch.sigmoid(normal(*X, dtype=dtype))
    for layout in LAYOUTS:
        args = (laid_out(near, layout), near, None, reduction)
        check("aten.binary_cross_entropy.default", args, {}, 1.03)


@pytest.mark.parametrize("width", [4, 48])
@pytest.mark.parametrize("reduction", [0, 1, 2], ids=["none", "mean", "sum"])
def test_cosine_embedding_is_bounded(reduction: int, width: int) -> None:
    for layout in ("row-major", "transposed"):
        x = laid_out(normal(2, 512, width), layout)[0]
        args = (x, normal(512, width), torch.ones(512), 0.0, reduction)
        check("aten.cosine_embedding_loss.default", args, {}, 1.5)


@pytest.mark.parametrize("reduction", [0, 1, 2], ids=["none", "mean", "sum"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_of_classes_are_told(layout: str, reduction: int) -> None:
    classes = torch.arange(8 * 48).reshape(8, 48) % 64
    probabilities = torch.softmax(normal(*X), 1)
    for dtype in (torch.float32, torch.bfloat16):
        x = laid_out(normal(*X, dtype=dtype), layout)
        weight = torch.ones(64, dtype=dtype)
        check("aten.nll_loss_nd.default", (x, classes, None, reduction), {}, 1.03)
        for target in (classes, probabilities.to(dtype)):
            for smoothing in (0.0, 0.1):
                for weights in (None, weight):
                    args = (x, target, weights, reduction, -100, smoothing)
                    check("aten.cross_entropy_loss.default", args, {}, 1.06)


@pytest.mark.parametrize("reduction", [0, 1, 2], ids=["none", "mean", "sum"])
def test_losses_of_rows_and_images(reduction: int) -> None:
    for layout in LAYOUTS:
        rows = laid_out(normal(2, 4096, 80), layout)[0]
        targets = torch.arange(4096) % 80
        for op in ("nll_loss_nd", "cross_entropy_loss"):
            check(f"aten.{op}.default", (rows, targets, None, reduction), {}, 1.03)
        many = torch.arange(4096 * 80).reshape(4096, 80) % 80
        check("aten.multilabel_margin_loss.default", (rows, many, reduction), {}, 1.03)
    for layout in (*LAYOUTS, "channels last"):
        image = laid_out(normal(4, 16, 32, 24), layout)
        places = torch.arange(4 * 32 * 24).reshape(4, 32, 24) % 16
        for op in ("nll_loss_nd", "cross_entropy_loss"):
            check(f"aten.{op}.default", (image, places, None, reduction), {}, 1.05)
