"""Rates of kinds of op: measured on a made machine whose costs are known, and on this one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cost_models.curve import Curve, value_at
from cost_models.kinds import KINDS
from cost_models.rates import Rates
from tuner.measure.cpu import CpuBackend
from tuner.measure.rates import measure_rates

FLOPS_PER_S = 1e11
LAUNCH_S, BYTES_PER_S, GATHER_S, ALIASED_S = 2e-6, 50e9, 0.7e-9, 3e-9
ELEMENT_S = {
    "tanh": 2e-9, "exp": 0.6e-9, "sigmoid": 0.2e-9, "gelu": 0.4e-9, "le": 0.3e-9,
    "native_group_norm": 0.2e-9, "upsample_bicubic2d": 6e-9, "_softmax": 0.3e-9,
    "native_layer_norm": 0.1e-9,
}  # fmt: skip
ROW_S = {"_softmax": 10e-9, "native_layer_norm": 20e-9}
VIEWS = {"transpose", "permute", "view", "_unsafe_view", "expand", "unsqueeze", "select", "slice",
         "t", "alias", "detach", "squeeze"}  # fmt: skip
VIEW_S = 1e-6
CONVOLUTIONS_PER_S = 1.5e11
FEW_COLUMNS, FEW_ROWS, FEW_ALONE, FEW_SUMMED, FEW_QUERIES = 5.0, 2.0, 4.0, 3.0, 6.0
"""How much longer products take of less than 16 columns, rows (of matrices in batches, and of one
alone), or terms of a sum, and fused attention of fewer queries; columns are no worry where the
second matrix lies by columns."""


def cost_s(name: str, args: tuple[Any, ...], made: torch.Tensor) -> float:
    """What an op takes on the made machine."""
    given = [one for one in args if isinstance(one, torch.Tensor)]
    if name in VIEWS:
        return VIEW_S
    bytes_s = (sum(one.nbytes for one in given) + made.nbytes) / BYTES_PER_S
    if name in ("bmm", "mm", "addmm", "baddbmm"):
        left, right = given[-2:]
        summed, columns = right.shape[-2:]
        narrow = 1.0
        if left.shape[-2] < 16:
            narrow = FEW_ALONE if name == "addmm" else FEW_ROWS
        if columns < 16 and right.stride(-1) == 1 and columns > 1:
            narrow = FEW_COLUMNS
        if summed < 16:
            narrow *= FEW_SUMMED
        return LAUNCH_S + narrow * 2 * made.numel() * summed / FLOPS_PER_S + bytes_s
    if name == "convolution":
        weight = given[1]
        flops = 2 * made.numel() * weight[0].numel()
        return LAUNCH_S + flops / CONVOLUTIONS_PER_S + weight.numel() * GATHER_S + bytes_s
    if "attention" in name:
        query, key = given[:2]
        slow = FEW_QUERIES if query.shape[-2] < 16 else 1.0
        flops = 4 * query.numel() * key.shape[-2]
        return LAUNCH_S + slow * flops / FLOPS_PER_S + bytes_s
    rows = given[0].numel() / given[0].shape[-1] if name in ROW_S else 0
    gathered_s = 0.0
    if name == "copy_":
        bytes_s = 2 * made.nbytes / BYTES_PER_S
        apart = given[1].stride(-1) * given[1].element_size()
        gathered_s = (ALIASED_S if apart % 4096 == 0 else GATHER_S) * made.numel()
    return (
        LAUNCH_S + bytes_s + made.numel() * ELEMENT_S.get(name, 0.0)
        + rows * ROW_S.get(name, 0.0) + gathered_s
    )  # fmt: skip


class Meter(TorchDispatchMode):
    """Adds up what ops take."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        first = made[0] if isinstance(made, tuple) else made
        self.seconds += cost_s(func.overloadpacket.__name__, args, first)
        return made


class Machine(CpuBackend):
    """A CPU with known costs."""

    def time_call(self, call: Callable[[], Any]) -> tuple[float, float]:
        with Meter() as meter:
            call()
        return meter.seconds * 1e3, meter.seconds * 1e3


@pytest.fixture(scope="module")
def made() -> Rates:
    with torch.no_grad():
        return measure_rates(Machine(), torch.float32, FLOPS_PER_S)


def close(curve: Curve, x: float, expected: float) -> bool:
    return value_at(curve, x) == pytest.approx(expected, rel=0.1)


def test_a_known_machines_costs_are_found(made: Rates) -> None:
    for kind, op in {
        "tanh": "tanh", "exp": "exp", "sigmoid": "sigmoid", "gelu": "gelu", "comparison": "le",
        "group_norm": "native_group_norm", "upsample_bicubic2d": "upsample_bicubic2d",
        "softmax": "_softmax", "layer_norm": "native_layer_norm",
    }.items():  # fmt: skip
        assert made.ops[kind].element_s == pytest.approx(ELEMENT_S[op], rel=0.2), kind
    for kind, op in {"softmax": "_softmax", "layer_norm": "native_layer_norm"}.items():
        assert made.ops[kind].row_s == pytest.approx(ROW_S[op], rel=0.01)
    assert made.ops["plain"].launch_s == pytest.approx(LAUNCH_S, rel=0.01)
    assert made.ops["view"].launch_s == pytest.approx(VIEW_S, rel=0.01)
    assert [value for _, value in made.gather] == pytest.approx([GATHER_S] * 4, rel=0.1)
    assert [value for _, value in made.aliased] == pytest.approx([ALIASED_S] * 4, rel=0.1)
    assert all(rate == pytest.approx(BYTES_PER_S, rel=0.05) for _, rate in made.bandwidth)


def test_a_known_machines_slow_products_are_found(made: Rates) -> None:
    assert close(made.rows, 8, FEW_ROWS) and close(made.rows, 64, 1.0)
    assert close(made.alone, 8, FEW_ALONE) and close(made.alone, 64, 1.0)
    assert close(made.attention, 4, FEW_QUERIES) and close(made.attention, 64, 1.0)
    assert close(made.columns, 8, FEW_COLUMNS) and close(made.columns, 64, 1.0)
    assert close(made.across, 8, 1.0) and close(made.across, 64, 1.0)
    assert close(made.summed, 8, FEW_SUMMED) and close(made.summed, 64, 1.0)
    # the largest says it best
    assert made.convolution[-1][1] == pytest.approx(CONVOLUTIONS_PER_S, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_this_machines_are_positive_and_finite(dtype: torch.dtype) -> None:
    found = measure_rates(CpuBackend(), dtype, 1e10)
    curves = [value for value in asdict(found).values() if isinstance(value, tuple)]
    assert len(curves) == 10
    assert all(0 < value < math.inf for curve in curves for point in curve for value in point)
    assert all(value < 1e-6 for _, value in (*found.gather, *found.aliased))
    assert set(found.ops) <= {*KINDS.values(), "plain", "view"}
    for rate in found.ops.values():
        assert 0 < rate.launch_s < 1
        assert 0 <= rate.element_s < 1e-3 and 0 <= rate.row_s < 1e-3


def test_what_torch_has_no_kernel_for_is_taken_for_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError('"tanh" not implemented for \'Half\'')

    monkeypatch.setitem(rates_table(), "tanh", refused)
    with torch.no_grad():
        found = measure_rates(Machine(), torch.float32, FLOPS_PER_S)
    assert "tanh" not in found.ops and "exp" in found.ops


def rates_table() -> Any:
    from tuner.measure import rates

    return rates._ELEMENTWISE
