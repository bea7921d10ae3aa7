"""Parts of tensors that a model writes: the numbers are torch's, and the memory is what is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from search_space.layout import Layout, is_dense
from search_space.scatters import copy, diagonal_scatter, select_scatter, slice_scatter
from tests.tiny import Function
from tuner import apply
from tuner.measure.cpu import CpuBackend


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


VIEWS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda x: x,
    lambda x: x.mT,
    lambda x: x.narrow(0, 1, 2),
    lambda x: x.mT.narrow(1, 1, 3),
    lambda x: x[0],
    lambda x: x[:, ::2],
    lambda x: x[:1].expand(3, -1, -1),
)


@pytest.mark.parametrize("view", VIEWS)
def test_values_are_torchs_own_and_storage_is_the_arguments(
    view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = view(drawn(4, 6, 8))
    before = x.clone()
    calls: list[tuple[Callable[..., torch.Tensor], Any, tuple[Any, ...]]] = [
        (slice_scatter, torch.slice_scatter, (x.narrow(-1, 0, 2), -1, 0, 2)),
        (slice_scatter, torch.slice_scatter, (drawn(*x[..., 1::2].shape), -1, 1, 10**6, 2)),
        (slice_scatter, torch.slice_scatter, (drawn(*x[-1:].shape), 0, -1)),
        (select_scatter, torch.select_scatter, (drawn(*x.select(-1, -1).shape), -1, -1)),
        (diagonal_scatter, torch.diagonal_scatter,
         (drawn(*x.diagonal(1, -2, -1).shape), 1, -2, -1)),
        (copy, torch.ops.aten.copy.default, (drawn(x.shape[-1]).double(),)),
    ]  # fmt: skip
    for ours, theirs, more in calls:
        found, expected = ours(x, *more), theirs(x, *more)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert found.untyped_storage().nbytes() == x.numel() * x.element_size()
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def column(x: torch.Tensor) -> torch.Tensor:
    s = torch.tanh(x @ x.mT)
    s[:, :, 0] = 0.0
    return torch.softmax(s * 2, -1) @ x


def one_row(x: torch.Tensor) -> torch.Tensor:
    x = x.exp().clone()
    x[0, 1] = 3.0
    return x.sin()


def every_second(x: torch.Tensor) -> torch.Tensor:
    x = x.exp().clone()
    x[..., 1::2] = x[..., ::2] * 2
    return x.sin()


def a_corner(x: torch.Tensor) -> torch.Tensor:
    x = x.exp().clone()
    x[:, 0:4, 0:4] = 0.5
    return x.sin()


def diagonal(x: torch.Tensor) -> torch.Tensor:
    s = x @ x.mT
    s.diagonal(0, -2, -1).fill_(0.0)
    return s.softmax(-1).sum(-1)


@pytest.mark.parametrize("forward", [column, one_row, every_second, a_corner, diagonal])
@pytest.mark.parametrize("budget", [1.0, 0.7, "min"])
def test_models_that_write_parts_keep_their_budget(
    forward: Callable[[torch.Tensor], torch.Tensor], budget: float | str
) -> None:
    model, x = Function(forward).eval(), drawn(4, 256, 64)
    fast = apply(model, (x,), memory_budget=budget)
    with torch.no_grad():
        for given in (drawn(3, 199, 64), x):
            torch.testing.assert_close(fast(given), model(given), rtol=1e-5, atol=1e-5)
        measured = CpuBackend().peak(lambda: fast(x))[1].activation_bytes
    assert measured == pytest.approx(fast.predicted_peak_bytes, rel=0.01)
    assert budget == 1.0 or fast.plan.choices


@pytest.mark.parametrize("forward", [one_row, every_second, a_corner])
def test_what_is_written_is_told_as_dense_as_it_is(
    forward: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = drawn(4, 256, 64)
    graph = apply(Function(forward), (x,)).prepare(x).analysis.sized
    written = [node.output for node in graph.nodes if "scatter" in node.op or "copy" in node.op]
    assert written
    assert all(is_dense(Layout(tensor.shape, tensor.strides)) for tensor in written)


def test_what_is_written_in_parts_compiles() -> None:
    model, x = Function(column).eval(), drawn(4, 256, 64)
    fast = apply(model, (x,), memory_budget=0.7, compile=True)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    report = fast.compile_report
    assert report is not None and not report.failure
