"""Workspaces against the allocator: what kernels take beside their outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from search_space.capture import capture
from search_space.eager_peak import eager_peak_bytes
from search_space.liveness import MemoryModel
from tests.tiny import Function
from tuner.measure.cpu import CpuBackend

Op = Callable[..., torch.Tensor]


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def heads(features: int = 64, length: int = 512) -> torch.Tensor:
    return normal(2, 4, length, features)


@pytest.mark.parametrize(
    ("op", "tensors"),
    [
        (attention, (heads(), heads(), heads())),
        (attention, (normal(8, 512, 64), normal(8, 512, 64), normal(8, 512, 64))),
        (attention, (heads(), heads(), heads(32))),
        (attention, (heads(), heads(), heads(), normal(4, 512, 512))),
        (attention, (heads(), heads(), heads(), normal(512, 512) > 0)),
        (lambda q, k: attention(q.mT.contiguous().mT, k, k), (heads(), heads())),
        (lambda x, w: F.conv2d(x, w, padding=1), (normal(2, 64, 64, 64), normal(64, 64, 3, 3))),
        (lambda x, w: F.conv1d(x, w), (normal(2, 64, 4096), normal(64, 64, 3))),
        (lambda x, w: F.rms_norm(x, (512,), w), (normal(2, 1024, 512), normal(512))),
        (lambda x, w: F.layer_norm(x, (512,), w), (normal(2, 1024, 512), normal(512))),
        (lambda x: torch.softmax(x.mT, -1), (normal(4, 512, 512),)),
        (lambda x, w: x.mT @ w, (normal(4, 256, 1024), normal(256, 64))),
        (lambda a, b: a @ b, (normal(1, 8, 256, 64), normal(4, 1, 64, 256))),
        (lambda a, b: a.mT @ b.mT, (normal(8, 64, 256), normal(8, 256, 64))),
    ],
)
def test_a_single_op_takes_what_is_predicted(op: Op, tensors: tuple[torch.Tensor, ...]) -> None:
    model = Function(op)
    with torch.no_grad():
        model(*tensors)
        _, peak = CpuBackend().peak(lambda: model(*tensors))
    graph = capture(model, tensors).graph
    sized = graph.at(graph.bind(tuple(tuple(tensor.shape) for tensor in tensors)))
    predicted = MemoryModel(sized).profile().peak_bytes
    # a library's scratch of some KiB is not modelled
    assert predicted == pytest.approx(peak.activation_bytes, rel=0.05, abs=2**16)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_on_transposed_rows_takes_what_is_predicted(bias: bool) -> None:
    layer = torch.nn.Linear(256, 64, bias=bias)
    tensors = (normal(4, 256, 1024),)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.layer(x.mT)
            return made

    model = Model().eval()
    with torch.no_grad():
        _, peak = CpuBackend().peak(lambda: model(*tensors))
    graph = capture(model, tensors).graph
    predicted = MemoryModel(graph.at(graph.bind(((4, 256, 1024),)))).profile().peak_bytes
    assert predicted == pytest.approx(peak.activation_bytes, rel=0.05)


def test_the_eager_peak_counts_scores_where_attention_is_not_fused() -> None:
    tensors = (normal(8, 512, 64), normal(8, 512, 64), normal(8, 512, 64))
    model = Function(attention)
    with torch.no_grad():
        _, peak = CpuBackend().peak(lambda: model(*tensors))
    found = eager_peak_bytes(model, tensors)
    assert found == pytest.approx(peak.activation_bytes, rel=0.05)
