"""Workspaces of CUDA kernels against the caching allocator: told, or bounded from above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from search_space.kernel_call import Call, Operand
from search_space.layout import Layout
from search_space.torch_ops import torch_op
from search_space.workspace import workspace_bytes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MIB = 2**20
SLACK = 64 * 1024
"""Small buffers of a kernel's own."""


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def told(op: str, args: tuple[Any, ...], output: torch.Tensor) -> int:
    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    operands = tuple(
        Operand(place, Layout(tuple(x.shape), tuple(x.stride())), str(x.dtype)[6:])
        for place, x in enumerate(args) if isinstance(x, torch.Tensor)
    )  # fmt: skip
    call = Call(
        operands, tuple(None if isinstance(x, torch.Tensor) else plain(x) for x in args),
        tuple(output.shape), str(output.dtype)[6:], "cuda",
    )  # fmt: skip
    return workspace_bytes(op, call)


def measured(call: Callable[[], torch.Tensor]) -> tuple[int, torch.Tensor]:
    """Bytes beside the output, and the output."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    torch.cuda.reset_peak_memory_stats()
    output = call()
    torch.cuda.synchronize()
    peak = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    return int(peak) - output.untyped_storage().nbytes(), output


def split_heads(batch: int, length: int, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """As libraries hand heads to attention: a view of ``(batch, length, heads * 64)``."""
    return normal(batch, length, heads, 64, dtype=dtype).transpose(1, 2)


def _cases() -> dict[str, Callable[[], tuple[str, tuple[Any, ...]]]]:
    half = torch.bfloat16
    cases: dict[str, Callable[[], tuple[str, tuple[Any, ...]]]] = {
        "bmm channels last": lambda: ("aten.bmm.default", (
            normal(256, 256, 64).permute(2, 0, 1), normal(256, 256, 64).permute(2, 1, 0))),
        "bmm by columns": lambda: ("aten.bmm.default", (
            normal(64, 256, 256).mT, normal(64, 256, 256))),
        "matmul of heads": lambda: ("aten.matmul.default", (
            split_heads(1, 1024, 8, torch.float32), split_heads(1, 1024, 8, torch.float32).mT)),
        "matmul channels last, half": lambda: ("aten.matmul.default", (
            normal(1, 256, 256, 64, dtype=half).permute(0, 3, 1, 2),
            normal(1, 256, 256, 64, dtype=half).permute(0, 3, 2, 1))),
        "mm with gaps": lambda: ("aten.mm.default", (
            normal(1024, 2048)[:, ::2], normal(1024, 1024))),
        "linear of a view": lambda: ("aten.linear.default", (
            # (rows are folded, with a copy, where the weight could take a gradient)
            normal(64, 512, 256).transpose(0, 1), torch.nn.Parameter(normal(512, 256)),
            normal(512))),
        "mean, half": lambda: ("aten.mean.dim", (normal(2048, 2048, dtype=half), [-1], True)),
        "softmax of a view": lambda: ("aten.softmax.int", (normal(2048, 2048).mT, -1)),
    }  # fmt: skip
    for name, dtype in (("float32", torch.float32), ("half", half)):
        cases[f"layer norm, {name}"] = lambda dtype=dtype: ("aten.layer_norm.default", (
            normal(4096, 64, 128, dtype=dtype), [128], normal(128, dtype=dtype),
            normal(128, dtype=dtype)))  # type: ignore[misc]  # fmt: skip
        cases[f"layer norm of a view, {name}"] = lambda dtype=dtype: ("aten.layer_norm.default", (
            normal(512, 128, 512, dtype=dtype).permute(0, 2, 1), [128], normal(128, dtype=dtype),
            normal(128, dtype=dtype)))  # type: ignore[misc]  # fmt: skip
        cases[f"group norm, {name}"] = lambda dtype=dtype: ("aten.group_norm.default", (
            normal(1, 320, 128, 128, dtype=dtype), 32, normal(320, dtype=dtype),
            normal(320, dtype=dtype), 1e-5))  # type: ignore[misc]  # fmt: skip
        for mask in (None, "bias", "bool", "causal"):
            cases[f"attention, {name}, {mask}"] = (
                lambda dtype=dtype, mask=mask: _attention(dtype, mask)  # type: ignore[misc]
            )
        for kernel in (1, 3):
            cases[f"convolution {kernel}, {name}"] = lambda dtype=dtype, k=kernel: (
                "aten.conv2d.default", (normal(1, 320, 64, 64, dtype=dtype),
                normal(320, 320, k, k, dtype=dtype), normal(320, dtype=dtype), [1, 1],
                [k // 2, k // 2]))  # type: ignore[misc]  # fmt: skip
    return cases


def _attention(dtype: torch.dtype, mask: str | None) -> tuple[str, tuple[Any, ...]]:
    q, k, v = (split_heads(1, 2048, 8, dtype) for _ in range(3))
    given = None
    if mask == "bias":
        given = normal(1, 1, 2048, 2048, dtype=dtype)
    elif mask == "bool":
        given = torch.rand(1, 1, 2048, 2048, device="cuda") < 0.5
        given[..., 0] = True
    op = "aten.scaled_dot_product_attention.default"
    return op, (q, k, v, given, 0.0, mask == "causal")


def _few_queries() -> tuple[str, tuple[Any, ...]]:
    """A chunk of causal attention: 1024 of 8192 queries in half precision, 12 heads."""
    q = split_heads(1, 1024, 12, torch.bfloat16)
    k, v = (split_heads(1, 8192, 12, torch.bfloat16) for _ in range(2))
    return "autochunk.causal_attention.default", (q, k, v, 7168)


CASES = _cases() | {"attention, half, few queries": _few_queries}
BOUNDED = ("attention", "convolution", "group norm")
"""Where only a bound is promised: what a library takes beside its output is its own affair."""


@pytest.mark.parametrize("name", CASES)
def test_what_a_kernel_takes_is_told(name: str) -> None:
    torch.manual_seed(0)
    op, args = CASES[name]()
    function = torch_op(op)
    with torch.no_grad():
        took, output = measured(lambda: function(*args))
    promised = told(op, args, output)
    print(f"{name}: told {promised / MIB:.2f} MiB, took {took / MIB:.2f} MiB")
    assert took <= promised + SLACK
    if not name.startswith(BOUNDED):
        assert promised <= 1.03 * took + SLACK
