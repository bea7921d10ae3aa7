"""What attention allocates, against the allocator: every form that the kernels tell apart.

Some processors pack half precision for their matrix units and others do not, so that there it must
be one of the two, to the byte, and never more than is predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from search_space.causal_attention import causal_attention
from search_space.kernel_call import Call, Operand
from search_space.layout import Layout
from search_space.workspace import workspace_bytes
from search_space.workspace_attention import attention_bytes, causal_part_bytes
from tuner.measure.cpu import CpuBackend

HALF = (torch.bfloat16, torch.float16)
DTYPES = [torch.float32, *HALF, torch.float64]
SLACK = 2**12
"""Bytes of small tensors that nobody models."""

Q, K = 600, 700
Tensors = tuple[torch.Tensor, ...]
Case = Callable[[], tuple[Tensors, dict[str, Any]]]


def heads(length: int, count: int = 4, features: int = 64, batch: int = 2) -> torch.Tensor:
    """As projections give them: transposed, (batch, heads, length, features)."""
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, count, features, generator=generator).transpose(1, 2)


def qkv(rows: int = Q, keys: int = K, count: int = 4, groups: int = 4, **more: Any) -> Tensors:
    return heads(rows, count, **more), heads(keys, groups, **more), heads(keys, groups, **more)


def hidden(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3


def bias(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


FUSED: dict[str, Case] = {
    "plain": lambda: (qkv(), {}),
    "causal": lambda: (qkv(Q, Q), {"is_causal": True}),
    "causal, many rows": lambda: (qkv(800, 800), {"is_causal": True}),
    "one row": lambda: (qkv(1), {}),
    "few rows": lambda: (qkv(63), {}),
    "some rows": lambda: (qkv(64), {}),
    "few keys": lambda: (qkv(Q, 63), {}),
    "odd keys": lambda: (qkv(Q, 199), {}),
    "many keys": lambda: (qkv(Q, 1100), {}),
    "odd features": lambda: (qkv(features=13), {}),
    "rows of a tensor": lambda: (tuple(x[:, :, 20:] for x in qkv()), {}),
    "mask of booleans": lambda: ((*qkv(), hidden(Q, K)), {}),
    "mask of keys": lambda: ((*qkv(), hidden(2, 1, 1, K)), {}),
    "mask expanded over heads": lambda: ((*qkv(), hidden(1, 1, Q, K).expand(2, 4, Q, K)), {}),
    "bias": lambda: ((*qkv(), bias(2, 4, Q, K)), {}),
    "bias expanded": lambda: ((*qkv(), bias(1, 1, 1, K).expand(2, 4, Q, K)), {}),
    "bias transposed": lambda: ((*qkv(), bias(2, 4, K, Q).mT), {}),
    "grouped": lambda: (qkv(groups=2), {"enable_gqa": True}),
    "grouped, causal": lambda: (qkv(Q, Q, groups=2), {"enable_gqa": True, "is_causal": True}),
    "one group": lambda: (qkv(groups=1), {"enable_gqa": True}),
    "one group, one batch": lambda: (qkv(count=2, groups=1, batch=1), {"enable_gqa": True}),
}

UNFUSED: dict[str, Case] = {
    "narrow values": lambda: ((heads(Q), heads(K), heads(K, features=32)), {}),
    "narrow values, causal": lambda: (
        (heads(Q), heads(Q), heads(Q, features=32)), {"is_causal": True}),
    "narrow values, grouped": lambda: (
        (heads(Q), heads(K, 2), heads(K, 2, features=32)), {"enable_gqa": True}),
    "three dimensions": lambda: (tuple(x[0] for x in qkv()), {}),
    "three dimensions, causal": lambda: (tuple(x[0] for x in qkv(Q, Q)), {"is_causal": True}),
    "three dimensions, mask": lambda: ((*(x[0] for x in qkv()), hidden(Q, K)), {}),
    "three dimensions, bias": lambda: ((*(x[0] for x in qkv()), bias(4, Q, K)), {}),
    "two dimensions": lambda: (tuple(x[0, 0] for x in qkv()), {}),
    "mask of three dimensions": lambda: ((*qkv(), hidden(4, Q, K)), {}),
    "queries transposed": lambda: (
        (heads(Q).mT.contiguous().mT, heads(K), heads(K)), {}),
    "keys of one batch": lambda: ((heads(Q), heads(K)[:1], heads(K)[:1]), {}),
    "keys of one head": lambda: ((heads(Q), heads(K, 1), heads(K, 1)), {}),
}  # fmt: skip

WIDE: dict[str, Case] = {
    "grouped": lambda: ((heads(64, 2, 512), heads(8, 1, 512), heads(8, 1, 256)),
                        {"enable_gqa": True}),
    "three dimensions": lambda: (
        (heads(64, 2, 512)[0], heads(8, 2, 512)[0], heads(8, 2, 512)[0]), {}),
}  # fmt: skip


def measured(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """The op's output, and what it allocated beside it at most."""
    with torch.no_grad():
        call()
        made, peak = CpuBackend().peak(call)
    return made, peak.activation_bytes - made.numel() * made.element_size()


def call_of(
    tensors: Tensors, args: tuple[Any, ...], kwargs: dict[str, Any], made: torch.Tensor
) -> Call:
    operands = tuple(
        Operand(place, Layout(tuple(x.shape), tuple(x.stride())), str(x.dtype)[len("torch.") :])
        for place, x in enumerate(tensors)
    )
    dtype = str(made.dtype)[len("torch.") :]
    return Call(operands, args, tuple(made.shape), dtype, "cpu", tuple(kwargs.items()))


def both(case: Case, dtype: torch.dtype) -> tuple[Call, int, int]:
    """The call, measured bytes beside the output, and the output's."""
    given, kwargs = case()
    tensors = tuple(x if x.dtype == torch.bool else x.to(dtype) for x in given)
    attend: Callable[..., torch.Tensor] = F.scaled_dot_product_attention
    made, beside = measured(lambda: attend(*tensors, **kwargs))
    return call_of(tensors, (), kwargs, made), beside, made.numel() * made.element_size()


def predicted(call: Call) -> int:
    return workspace_bytes("aten.scaled_dot_product_attention.default", call)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_takes_what_is_predicted(name: str, dtype: torch.dtype) -> None:
    call, beside, _ = both(FUSED[name], dtype)
    packed, unpacked = predicted(call), attention_bytes(call, packs=False)
    assert beside in (packed, unpacked)
    assert beside <= packed
    assert packed == unpacked or dtype in HALF


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", UNFUSED)
def test_unfused_attention_takes_what_is_predicted(name: str, dtype: torch.dtype) -> None:
    call, beside, _ = both(UNFUSED[name], dtype)
    found = predicted(call)
    assert found == pytest.approx(beside, rel=0.01)
    assert found + SLACK >= beside


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WIDE)
def test_more_features_than_keys_are_bounded(name: str, dtype: torch.dtype) -> None:
    call, beside, output = both(WIDE[name], dtype)
    found = predicted(call)
    assert beside <= found + SLACK
    assert found <= 6 * (beside + output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [40, 200, 256, 300, 511, 700, 1000])
@pytest.mark.parametrize("groups", [4, 2])
def test_the_last_part_of_causal_attention_takes_what_is_predicted(
    rows: int, groups: int, dtype: torch.dtype
) -> None:
    keys = 2000
    query, key = heads(keys, batch=1).to(dtype), heads(keys, groups, batch=1).to(dtype)
    kwargs = {"enable_gqa": groups < 4}

    def part(start: int) -> tuple[torch.Tensor, int]:
        queries = query[:, :, start : start + rows]
        return measured(lambda: causal_attention(queries, key, key, start, **kwargs))

    made, last = part(keys - rows)
    tensors = (query[:, :, :rows], key, key)
    call = call_of(tensors, (None, None, None, 0), kwargs, made)
    found = workspace_bytes("autochunk.causal_attention.default", call)
    told = found, causal_part_bytes(call, packs=False)
    assert any(one == pytest.approx(last, rel=0.01) for one in told)
    assert told[0] == told[1] or dtype in HALF
    # the model asks once, for all parts
    for start in (0, rows // 2, keys - rows - 1):
        assert part(start)[1] <= found + SLACK


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parts_that_no_kernel_takes_are_bounded(dtype: torch.dtype) -> None:
    query, value = heads(1000)[0].to(dtype), heads(1000, features=32)[0].to(dtype)
    taken = []
    for start in (0, 200, 400):
        queries = query[:, start : start + 600]
        made, beside = measured(partial(causal_attention, queries, query, value, start))
        taken.append(beside)
    call = call_of((query[:, :600], query, value), (None, None, None, 0), {}, made)
    found = workspace_bytes("autochunk.causal_attention.default", call)
    assert max(taken) <= found + SLACK
    assert found <= 1.02 * max(taken)
