"""Half-precision convolutions are not cut into single columns where a library's kernel fails there.
"""

from __future__ import annotations

import pytest
import torch

from search_space.dim_rules import convolution, flow
from search_space.processor import HalfKernels
from tests.one_op import op_graph

WIDE, TALL = 3, 2


def sliced(dtype: torch.dtype, dim: int) -> bool:
    """Whether a patch embedding may be cut along a dimension of its output."""
    args = (torch.randn(1, 3, 28, 28).to(dtype), torch.randn(8, 3, 4, 4).to(dtype), None, [4, 4])
    graph = op_graph("aten.conv2d.default", args)
    return flow(graph, graph.nodes[-1].index, dim) is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_columns_stay_whole_on_matrix_units(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in HalfKernels:
        monkeypatch.setattr(convolution, "half_kernels", lambda _, k=kind: frozenset({k}))
        assert sliced(dtype, WIDE) == (kind is not HalfKernels.TILES)
        assert sliced(dtype, TALL)
    assert sliced(torch.float32, WIDE)
