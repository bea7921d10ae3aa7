"""What elementwise ops of mixed dtypes convert first, against the allocator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from search_space.workspace_promotion import _ORDER, _promoted
from tests.search_space.test_workspace_kernels import check
from tests.tiny import Function
from tuner import apply
from tuner.measure.cpu import CpuBackend

SHAPE = (64, 300)


def given() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(SHAPE, generator=generator)
    whole = torch.randint(1, 9, SHAPE, generator=generator)
    return {
        "float": numbers, "double": numbers.double(), "half": numbers.half(),
        "bfloat": numbers.bfloat16(), "long": whole, "int": whole.int(), "bool": numbers > 0,
        "a row": numbers[0], "a row of bools": numbers[0] > 0,
        "columns": numbers.mT.contiguous().mT,
        "one float": torch.tensor(2.0), "one int": torch.tensor(2),
    }  # fmt: skip


NAMES = tuple(given())


@pytest.mark.parametrize("one", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_two_tensors(one: str, other: str) -> None:
    values = given()
    for op in ("mul.Tensor", "maximum.default", "lt.Tensor", "eq.Tensor", "logical_and.default",
               "div.Tensor"):  # fmt: skip
        check(f"aten.{op}", (values[one], values[other]), {}, 1.03)
    check("aten.where.self", (values["bool"], values[one], values[other]), {}, 1.03)
    if one != "columns":  # (a matrix that is turned is copied by blocks of 60 x 60)
        check("aten.masked_fill.Tensor", (values[one], values["bool"], torch.tensor(0)), {}, 1.03)
        check("aten.masked_fill.Scalar", (values[one], values["bool"], 0), {}, 1.03)


@pytest.mark.parametrize("one", NAMES)
def test_numbers_and_ops_of_one_tensor(one: str) -> None:
    x = given()[one]
    for op in ("mul.Scalar", "gt.Scalar", "div.Scalar", "pow.Tensor_Scalar"):
        for number in (2, 2.5):
            check(f"aten.{op}", (x, number), {}, 1.03)
    for op in ("exp", "sqrt", "sigmoid", "isnan", "logical_not", "sign", "clone",
               "isinf", "isfinite"):
        check(f"aten.{op}.default", (x,), {}, 1.03)
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        check("aten._to_copy.default", (x,), {"dtype": dtype}, 1.03)


@pytest.mark.parametrize("one", _ORDER)
@pytest.mark.parametrize("other", _ORDER)
def test_dtypes_are_promoted_as_torch_does(one: str, other: str) -> None:
    expected = torch.promote_types(getattr(torch, one), getattr(torch, other))
    assert f"torch.{_promoted(one, other)}" == str(expected)


def masked(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return ((x @ x.mT).softmax(-1) * keep) @ x


def distances(x: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    places = torch.arange(x.shape[1])
    return ((places[:, None] - places) * slopes).softmax(-1) @ x


@pytest.mark.parametrize(
    ("forward", "second"),
    [(masked, torch.ones(1, 300, 300) > 0), (distances, torch.rand(2, 1, 1))],
)
@pytest.mark.parametrize("budget", ["10GiB", 0.7, "min"])
def test_models_that_mix_dtypes_keep_their_budget(
    forward: Callable[..., Any], second: torch.Tensor, budget: float | str
) -> None:
    model, x = Function(forward), torch.randn(2, 300, 64)
    fast = apply(model, (x, second), memory_budget=budget)
    with torch.no_grad():
        torch.testing.assert_close(fast(x, second), model(x, second), rtol=1e-4, atol=1e-5)
        measured = CpuBackend().peak(lambda: fast(x, second))[1].activation_bytes
    assert measured == pytest.approx(fast.predicted_peak_bytes, rel=0.01)
