"""The strides that analysis relies on are those that tensors really have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given

from experiments.families import segformer, vae_decoder
from search_space.layout import Layout, elementwise_layout
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


def test_copies_lie_as_they_are_asked_to() -> None:
    """By the trace the convolution gives a channels-last image, in truth a row-major one: its
    permutation is no row-major tensor, and the copy is one. (Copies that are no outputs go.)"""
    weight = torch.randn(6, 6, 1, 1, generator=torch.Generator().manual_seed(0))

    def forward(x: torch.Tensor) -> torch.Tensor:
        image = x.transpose(1, 2).view(1, 6, 4, 5)
        made = torch.nn.functional.conv2d(image, weight)
        return made.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)

    assert wrong_strides(analysed(Function(forward), (torch.randn(1, 20, 6),))) == []


def test_a_cast_keeps_the_strides_of_single_positions() -> None:
    """So that the convolution behind it takes the image for row-major."""
    weight = torch.randn(6, 6, 1, 1, generator=torch.Generator().manual_seed(0)).double()

    def forward(x: torch.Tensor) -> torch.Tensor:
        image = x.transpose(1, 2).view(1, 6, 4, 5).double()
        return torch.nn.functional.conv2d(image, weight).sigmoid()

    assert wrong_strides(analysed(Function(forward), (torch.randn(1, 20, 6),))) == []


def test_copies_that_are_to_be_row_major_are_so() -> None:
    """What is copied is a batch of one that lies otherwise than its trace tells."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        heads = torch.bmm(x, x.transpose(1, 2)).view(4, 20, 1, 1, 20).permute(3, 1, 0, 4, 2)
        made = heads.reshape(1, 20, 4, 20).contiguous()
        return made.view(1, 20, 80).masked_fill(made.view(1, 20, 80) > 0, 1.0)

    assert wrong_strides(analysed(Function(forward), (torch.randn(4, 20, 6),))) == []


@pytest.mark.parametrize("size", [1, 2])
def test_images_out_of_sequences_are_followed(size: int) -> None:
    """A sum of such an image and of a channels-last one is channels-last, joined they are not."""
    norm = torch.nn.GroupNorm(2, 6).requires_grad_(False)

    def forward(x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = x.transpose(1, 2).view(x.shape[0], 6, 4, 5)
        added = torch.nn.functional.silu(norm(made + image))
        return added, torch.cat([made, image], 1).sigmoid(), torch.where(made > 0, made, image) * 2

    image = torch.randn(size, 6, 4, 5).to(memory_format=torch.channels_last)
    module = Function(forward)
    module.norm = norm
    assert wrong_strides(analysed(module, (torch.randn(size, 20, 6), image))) == []


@st.composite
def operands(draw: st.DrawFn) -> list[torch.Tensor]:
    """Tensors of one broadcast shape in any order of dimensions, with gaps and repeats."""
    sizes = st.integers(1, 3)
    shape = draw(st.lists(sizes, min_size=1, max_size=5))
    found: list[torch.Tensor] = []
    for _ in range(draw(st.integers(1, 3))):
        order = draw(st.permutations(range(len(shape))))
        gap = draw(st.sampled_from([1, 1, 2]))
        own = [draw(st.sampled_from([n, n, n, 1])) if found else n for n in shape]
        tensor = torch.zeros([own[dim] * (gap if not k else 1) for k, dim in enumerate(order)])
        tensor = tensor[: own[order[0]]].permute([order.index(d) for d in range(len(shape))])
        if draw(st.booleans()):  # a single position may have any stride
            real = zip(own, tensor.stride(), strict=True)
            steps = [step if size > 1 else draw(st.integers(1, 40)) for size, step in real]
            tensor = tensor.as_strided(own, steps)
        found.append(tensor)
    return found


@given(operands())
@example([torch.zeros(12).as_strided((3, 1), (1, 1)), torch.zeros(3, 1).expand(3, 4)])
@example([torch.zeros(12).as_strided((1, 3), (1, 1)), torch.zeros(4, 1)])
@example([torch.zeros(12).as_strided((3, 1, 2), (1, 1, 3)), torch.zeros(3, 1, 1)])
@example([torch.zeros(12).as_strided((1, 3, 2), (1, 1, 3)), torch.zeros(1)])
def test_elementwise_kernels_lay_out_as_told(tensors: list[torch.Tensor]) -> None:
    told = elementwise_layout([Layout(tuple(t.shape), t.stride()) for t in tensors])
    if len(tensors) == 1:
        real = torch.sigmoid(tensors[0])
    elif len(tensors) == 2:
        real = torch.add(*tensors)
    else:
        real = torch.addcmul(*tensors)
    assert (told.shape, told.strides) == (tuple(real.shape), real.stride())


@pytest.mark.parametrize("size", [1, 2])
def test_what_a_convolution_gives_on_is_followed(size: int) -> None:
    weight = torch.randn(6, 6, 1, 1, generator=torch.Generator().manual_seed(0))

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image = x.transpose(1, 2).reshape(x.shape[0], 6, 4, 5)
        made = torch.nn.functional.conv2d(image, weight)
        return torch.nn.functional.gelu(made).flatten(2).transpose(1, 2), made * 2 + image

    subject = analysed(Function(forward), (torch.randn(size, 20, 6),))
    assert wrong_strides(subject) == []
