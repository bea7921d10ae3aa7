"""Workspaces of recurrent layers: bounds from above, held against the allocator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.search_space.test_workspace_kernels import check, laid_out, normal

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="kernels of another build"
)
OPS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}
SIZES = ((1, 256, 64, 64), (8, 64, 48, 64), (8, 64, 256, 64), (8, 64, 64, 256), (4, 100, 32, 128),
         (2, 300, 40, 20))  # fmt: skip
"""Sequences, their lengths, numbers of the input and of the state."""


def check_layers(
    kind: str, sizes: tuple[int, ...], within: float, dtype: torch.dtype = torch.float32,
    layout: str = "row-major", **options: Any,
) -> None:  # fmt: skip
    batch, steps, width, hidden = sizes
    layers = getattr(torch.nn, kind)(width, hidden, **options).to(dtype).eval()
    count = layers.num_layers * (2 if layers.bidirectional else 1)
    is_batch_first = layers.batch_first
    shape = (batch, steps, width) if is_batch_first else (steps, batch, width)
    states = [torch.zeros(count, batch, layers.proj_size or hidden, dtype=dtype)]
    if kind == "LSTM":
        states.append(torch.zeros(count, batch, hidden, dtype=dtype))
    args = (
        laid_out(normal(*shape, dtype=dtype), layout),
        states if kind == "LSTM" else states[0],
        list(layers._flat_weights), layers.bias, layers.num_layers, 0.0, False,
        layers.bidirectional, is_batch_first,
    )  # fmt: skip
    check(f"aten.{OPS[kind]}.input", args, {}, within)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("sizes", SIZES)
def test_layers_of_all_sizes(kind: str, sizes: tuple[int, ...]) -> None:
    check_layers(kind, sizes, 1.3)
    check_layers(kind, sizes, 1.3, batch_first=True)
    check_layers(kind, sizes, 1.3, layout="transposed")


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("is_batch_first", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_stacks_of_layers(kind: str, is_batch_first: bool, has_bias: bool) -> None:
    for count in (1, 2, 3):
        for both in (False, True):
            check_layers(
                kind, (4, 100, 64, 64), 1.6, num_layers=count, bidirectional=both,
                batch_first=is_batch_first, bias=has_bias,
            )  # fmt: skip


@pytest.mark.parametrize("kind", OPS)
def test_layers_in_half_precision(kind: str) -> None:
    for sizes in ((1, 256, 64, 64), (8, 64, 256, 64), (4, 100, 64, 64)):
        check_layers(kind, sizes, 1.6, torch.bfloat16)


@pytest.mark.parametrize("both", [False, True])
def test_projected_states(both: bool) -> None:
    for count in (1, 2):
        check_layers(
            "LSTM", (4, 100, 64, 64), 1.3, num_layers=count, bidirectional=both, proj_size=16
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_steps(dtype: torch.dtype) -> None:
    for kind, gates, count in (("lstm_cell", 4, 2), ("gru_cell", 3, 1), ("rnn_tanh_cell", 1, 1)):
        x, state = normal(256, 48, dtype=dtype), normal(256, 64, dtype=dtype)
        shapes = ((gates * 64, 48), (gates * 64, 64), (gates * 64,), (gates * 64,))
        weights = [normal(*shape, dtype=dtype) for shape in shapes]
        hidden = state if count == 1 else [state, state]
        within = 1.03 if dtype is torch.float32 else 1.6
        check(f"aten.{kind}.default", (x, hidden, *weights), {}, within)


def test_short_sequences_in_half_precision() -> None:
    for kind in OPS:
        for sizes in ((2, 20, 64, 64), (32, 4, 64, 64), (1, 8, 64, 64)):
            # loose where all is small
            check_layers(kind, sizes, 4.0, torch.bfloat16)
