"""Whole models around ops that take workspaces: what is predicted of a call against what it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from search_space.torch_ops import torch_op
from search_space.workspace import _WORKSPACES
from tests.search_space.test_workspace_kernels import laid_out, normal
from tests.tiny import Function
from tuner import apply
from tuner.measure.cpu import CpuBackend

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available(),
    reason="kernels of another build"
)
X = (8, 64, 48)
CLASSES = torch.arange(8 * 48).reshape(8, 48) % 64
Y = normal(*X) + 1
WEIGHT = normal(16, 48, 48)


class Recurrent(torch.nn.Module):
    """A layer's outputs alone."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(x)[0]
        return made


FUNCTIONS: dict[str, tuple[Callable[..., Any], float]] = {
    "cross_entropy": (lambda x: F.cross_entropy(x, CLASSES), 1.1),
    "smoothed": (lambda x: F.cross_entropy(x, CLASSES, label_smoothing=0.1), 1.1),
    "probabilities": (lambda x: F.cross_entropy(x, x.softmax(1)), 1.1),
    "nll": (lambda x: F.nll_loss(x.log_softmax(1), CLASSES), 1.5),
    "binary": (lambda x: F.binary_cross_entropy_with_logits(x, Y.sigmoid()), 1.1),
    "kl_div": (lambda x: F.kl_div(x, Y, log_target=True), 1.1),
    "mse": (lambda x: F.mse_loss(x, Y), 1.1),
    "smooth_l1": (lambda x: F.smooth_l1_loss(x, Y), 1.1),
    "triplet": (lambda x: F.triplet_margin_loss(x, Y, Y + 1), 1.1),
    "spectrum": (lambda x: torch.fft.rfft(x, dim=1).abs(), 1.1),
    "filtered": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2.0), 1.1),
    "mixed": (lambda x: torch.fft.fft2(x).real + x, 1.1),
    "correlated": (lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(x).conj()), 1.4),
    "windowed": (
        lambda x: torch.stft(
            x.flatten(1), 64, window=torch.hann_window(64), return_complex=True
        ).abs(), 1.1,
    ),
    "inverse": (lambda x: torch.linalg.inv(x[:, :48] @ x[:, :48].mT + torch.eye(48)), 1.1),
    "exponential": (lambda x: torch.matrix_exp(x[:, :48] / 10), 1.1),
    "bilinear": (lambda x: F.bilinear(x, x, WEIGHT), 1.1),
    "close": (lambda x: torch.isclose(x, Y), 1.1),
    "rolled": (lambda x: torch.roll(x, (1, 2), (1, 2)), 1.1),
    "median": (lambda x: x.median(1).values, 1.1),
    "quantile": (lambda x: x.quantile(0.3, 1), 1.1),
    "log_sigmoid": (lambda x: F.logsigmoid(x), 1.1),
    "mean_of_numbers": (lambda x: x.nanmean(1), 1.1),
    "cubic": (lambda x: F.interpolate(x[:, None], scale_factor=2.0, mode="bicubic"), 1.1),
}  # fmt: skip
LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "lstm": lambda: torch.nn.LSTM(48, 64, batch_first=True),
    "deep lstm": lambda: torch.nn.LSTM(48, 64, 2, bidirectional=True),
    "gru": lambda: torch.nn.GRU(48, 64, batch_first=True),
    "rnn": lambda: torch.nn.RNN(48, 64),
}


def check_applied(model: torch.nn.Module, x: torch.Tensor, within: float) -> None:
    applied = apply(model.eval(), (x,))
    with torch.no_grad():
        applied(x)  # the first call sets things up
        _, peak = CpuBackend().peak(lambda: applied(x))
    measured, predicted = peak.activation_bytes, applied.predicted_peak_bytes
    assert predicted >= 0.97 * measured - 256, (measured, predicted)
    assert predicted <= within * measured + 2048, (measured, predicted)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_models_around_an_op_take_what_is_predicted(name: str) -> None:
    function, within = FUNCTIONS[name]
    check_applied(Function(function), laid_out(normal(*X), "transposed"), within)


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers_take_no_more_than_predicted(name: str) -> None:
    check_applied(Recurrent(LAYERS[name]()), normal(*X), 1.6)


@pytest.mark.parametrize("op", sorted(_WORKSPACES))
def test_ops_with_a_workspace_are_torch_s(op: str) -> None:
    """A name with a slip in it would tell nothing of any op."""
    namespace, name, *overload = op.split(".")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if namespace == "aten":
        assert packet is not None, op
        assert not overload or callable(torch_op(op))
