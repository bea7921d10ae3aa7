"""The strides that analysis relies on are those that tensors really have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from experiments.families import segformer, vae_decoder
from tests.tiny import Function, Tiny, analysed
from tuner.measure.cpu import CpuBackend

IMAGES = {
    "segformer": (partial(segformer, widths=(16, 32)), 64),
    "vae_decoder": (partial(vae_decoder, channels=(16, 32), layers=1, groups=4), 8),
}


def wrong_strides(subject: Tiny) -> list[str]:
    """Nodes that lie otherwise than told; strides of single positions decide layouts too."""
    found = []
    for node in subject.ops:
        value = subject.values[node.index]
        if isinstance(value, torch.Tensor) and value.numel():
            told, real = node.output.strides, value.stride()
            if any(size > 1 and a != b for size, a, b in zip(value.shape, told, real, strict=True)):
                found.append(f"{node.op} {tuple(value.shape)}: {told} told, {real} measured")
    return found


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", IMAGES)
def test_convolutions_over_sequences_lie_as_told(name: str, batch: int) -> None:
    factory, length = IMAGES[name]
    model, inputs = factory(batch=batch)
    args, kwargs = inputs(length)
    assert wrong_strides(analysed(model, args, kwargs)) == []


@pytest.mark.parametrize("name", IMAGES)
def test_the_peak_of_a_batch_of_one_is_told(name: str) -> None:
    factory, length = IMAGES[name]
    model, inputs = factory()
    args, kwargs = inputs(length)
    subject = analysed(model, args, kwargs)
    module = subject.module()
    with torch.no_grad():
        module(*args)
        measured = CpuBackend().peak(lambda: module(*args))[1].activation_bytes
    assert measured <= subject.memory.profile().peak_bytes <= 1.01 * measured


@pytest.mark.parametrize(
    ("name", "attention"),
    [("gpt2", "eager"), ("gpt2", "sdpa"), ("vit", "eager"), ("llama", "sdpa")],
)
def test_models_lie_as_told(tiny: Callable[..., Tiny], name: str, attention: str) -> None:
    assert wrong_strides(tiny(name, attention)) == []


@pytest.mark.parametrize("size", [1, 2])
def test_what_a_convolution_gives_on_is_followed(size: int) -> None:
    weight = torch.randn(6, 6, 1, 1, generator=torch.Generator().manual_seed(0))

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image = x.transpose(1, 2).reshape(x.shape[0], 6, 4, 5)
        made = torch.nn.functional.conv2d(image, weight)
        return torch.nn.functional.gelu(made).flatten(2).transpose(1, 2), made * 2 + image

    subject = analysed(Function(forward), (torch.randn(size, 20, 6),))
    assert wrong_strides(subject) == []
